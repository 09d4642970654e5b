"""`bpfleet doctor`: what does this host lack, and what is to be done about it?"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bpfleet.cli.supervised import config_option, table_or_json
from bpfleet.doctor import Finding, State, examine

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["command"]

_COLOURS = {State.OK: "green", State.WARN: "yellow", State.MISSING: "bold red"}


@click.command("doctor")
@config_option
@table_or_json("one object per line, the last one the summary")
def command(path: Path | None, form: str) -> None:
    """Look for what this host lacks: kernel features, mounts, privileges, libraries, the agent's places.

    What can be tried is tried, in processes that end; nothing stays loaded or mounted. Run it as root. Exit
    code 1 where something is missing that bpfleet run needs, 0 where there are warnings at most.
    """
    findings = list(examine(path))
    if form == "json":
        for one in findings:
            click.echo(json.dumps({"kind": "finding", **_plain(one)}, ensure_ascii=False))
        click.echo(json.dumps({"kind": "summary", **_counts(findings)}))
    elif sys.stdout.isatty():
        from rich.console import Console

        _tables(findings, Console())
    else:
        _lines(findings)
    if any(one.state is State.MISSING for one in findings):
        sys.exit(1)


def _plain(one: Finding) -> dict[str, str | bool]:
    return {
        "area": one.area,
        "state": one.state.value,
        "what": one.what,
        "detail": one.detail,
        "remedy": one.remedy,
        "looked": one.looked,
    }


def _counts(findings: Sequence[Finding]) -> dict[str, int]:
    counts = {state.value: sum(one.state is state for one in findings) for state in State}
    return {**counts, "not_looked_at": sum(not one.looked for one in findings)}


def _summary(findings: Sequence[Finding]) -> str:
    counts = _counts(findings)
    text = f"{counts['ok']} ok, {counts['warn']} warnings, {counts['missing']} missing"
    if counts["not_looked_at"]:
        text += f"; {counts['not_looked_at']} of the warnings could not be looked at"
    if counts["missing"]:
        return f"{text}: what is missing keeps bpfleet from running"
    if counts["not_looked_at"]:
        return f"{text}: nothing that was looked at keeps bpfleet from running"
    return f"{text}: bpfleet can run here"


def _lines(findings: Sequence[Finding]) -> None:
    """One line for each, for people and for grep."""
    columns = [(one.area, one.state.value, one.what) for one in findings]
    widths = [max(map(len, column)) for column in zip(*columns, strict=True)]
    for one, cells in zip(findings, columns, strict=True):
        start = "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        click.echo(f"{start}  {one.detail}" + (f"; remedy: {one.remedy}" if one.remedy else ""))
    click.echo(_summary(findings))


def _tables(findings: Sequence[Finding], console: Console) -> None:
    """A table for each area; Text, not str, since details come from this host and are no markup."""
    from rich.table import Table
    from rich.text import Text

    widest = max(len(one.what) for one in findings)
    for area in dict.fromkeys(one.area for one in findings):
        console.print(Text(f"\n{area}", style="bold"))
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column(width=max(len(state.value) for state in State))
        table.add_column(width=widest)
        table.add_column(overflow="fold")
        for one in findings:
            if one.area == area:
                told = Text(one.detail)
                if one.remedy:
                    told.append(f"\n→ {one.remedy}", style="cyan")
                table.add_row(Text(one.state.value, style=_COLOURS[one.state]), Text(one.what), told)
        console.print(table)
    bad = any(one.state is State.MISSING for one in findings)
    console.print(Text(f"\n{_summary(findings)}", style="bold red" if bad else "bold green"))

"""`bpfleet get`: what a running collector is told."""

from __future__ import annotations

import json
from pathlib import Path

import click

from bpfleet.cli.assignments import place
from bpfleet.cli.control_client import ask, socket_option
from bpfleet.cli.supervised import config_option, table_or_json

__all__ = ["command"]


@click.command("get")
@click.argument("places", metavar="[NAME[.VARIABLE]]…", nargs=-1)
@config_option
@socket_option
@table_or_json("one object per line")
def command(places: tuple[str, ...], path: Path | None, address: str | None, form: str) -> None:
    """Show variables and control maps of collectors that run.

    Without NAME those of all collectors; NAME.MAP lists a control map's entries, NAME.MAP[KEY] shows one. A
    variable marked fixed is `const volatile`: it takes a reload to change it.

    Exit code 2 where a name is wrong, 1 where no agent answers.
    """
    requests = [{"do": "get", **place(text)} for text in places] or [{"do": "get"}]
    values = [value for request in requests for value in ask(path, address, request)["values"]]
    if form == "json":
        for value in values:
            click.echo(json.dumps(value, ensure_ascii=False))
        return
    rows = [_row(value) for value in values]
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    for row in rows:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo(line.rstrip())


def _row(value: dict[str, object]) -> tuple[str, ...]:
    whole_map = value["kind"] == "map" and value["value"] is None
    shown = "(a map)" if whole_map else json.dumps(value["value"], ensure_ascii=False)
    marks = ("fixed",) if value["kind"] == "knob" else ("changed",) if value["changed"] else ("",)
    return f"{value['collector']}.{value['name']}", shown, str(value["type"]), *marks

"""`bpfleet status`: what the running agent says of itself, now."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from bpfleet.cli.control_client import ask, socket_option
from bpfleet.cli.supervised import config_option, table_or_json

__all__ = ["command"]


@click.command("status")
@config_option
@socket_option
@table_or_json("what a status record holds")
def command(path: Path | None, address: str | None, form: str) -> None:
    """Show what the running agent does: collectors, programs, maps, sinks.

    Exit code 1 where no agent answers.
    """
    body = ask(path, address, {"do": "status"})["status"]
    if form == "json":
        click.echo(json.dumps(body, ensure_ascii=False))
        return
    software = body["software"]
    click.echo(
        f"bpfleet {software['version']}, kernel {software['kernel']}, up {software['uptime_s']:.0f} s, "
        f"worker {software['pid']}: {software['cpu_s']:.1f} s CPU, {software['pss_bytes'] / 1e6:.0f} MB"
    )
    for one in body["collectors"]:
        click.echo("\n".join(_collector(one)))
    for one in body["sinks"]:
        click.echo("\n".join(_sink(one)))


def _collector(one: dict[str, Any]) -> Iterator[str]:
    every = f", every {one['interval_s']:g} s" if "interval_s" in one else ""
    yield f"collector {one['name']}: {one['state']}{every}"
    yield from _error(one)
    for program in one.get("programs", ()):
        where = program["attached"] or ("not attached" if program.get("error") else "run on demand")
        yield f"  program {program['name']}: {where}"
        yield from (f"    {line}" for line in program.get("error", "").splitlines())
    for found in one.get("maps", ()):
        cost = f", {found['read_ns'] / found['reads'] / 1e3:.0f} µs a read" if found["reads"] else ""
        filled = f"{found['entries']} of {found['max_entries']} entries"
        yield f"  map {found['name']}: {found['type']}, {filled}, by {found['method']}{cost}"
    for change in one.get("changes", ()):
        to = f"set to {change['value']}" if change["value"] else "deleted"
        yield f"  changed {change['what']}: {to} by user {change['uid']}"


def _sink(one: dict[str, Any]) -> Iterator[str]:
    counts = ""
    if "queued" in one:
        counts = f", {one['written']} written, {one['queued']} waiting, {one['dropped']} dropped"
    yield f"sink {one['name']}: {one['state']}{counts}"
    yield from _error(one)


def _error(one: dict[str, Any]) -> Iterator[str]:
    error = one.get("error")
    if error:
        yield f"  {error['what']}"
        for part in ("where", "remedy"):
            if error.get(part):
                yield f"    {part}: {error[part]}"

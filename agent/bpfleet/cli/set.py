"""`bpfleet set`: change what a running collector is told."""

from __future__ import annotations

import json
from pathlib import Path

import click

from bpfleet.cli.assignments import place, request_of
from bpfleet.cli.control_client import ask, socket_option
from bpfleet.cli.supervised import config_option
from bpfleet.errors import ConfigError

__all__ = ["command"]


@click.command("set")
@click.argument("assignments", metavar="NAME.VARIABLE=VALUE…", nargs=-1, required=True)
@config_option
@socket_option
@click.option("--delete", is_flag=True, help="Delete entries instead: NAME.MAP[KEY]…")
def command(assignments: tuple[str, ...], path: Path | None, address: str | None, delete: bool) -> None:
    """Change variables and control maps of collectors that run.

    NAME is a collector. NAME.MAP[KEY]=VALUE sets an entry of a control map. Arrays, structs and keys that are
    structs are written as JSON. The change lasts until it is made again, the agent ends, or it reads its
    configuration again (SIGHUP).

    Exit code 2 where a name or value is wrong, 1 where no agent answers or the kernel refuses.
    """
    requests = [{"do": "delete", **place(text)} if delete else request_of(text) for text in assignments]
    for text, request in zip(assignments, requests, strict=True):
        if delete and "key" not in request:
            raise ConfigError(f"{text!r} names no entry", where="--delete", remedy="write NAME.MAP[KEY]")
    for request in requests:
        answer = ask(path, address, request)
        was = f" (was {json.dumps(answer['before'], ensure_ascii=False)})"
        for change in answer["changes"]:
            now = f" = {change['value']}" if change["value"] else " deleted"
            click.echo(
                f"{answer['collector']}.{change['name']}{now}{was if answer['before'] is not None else ''}"
            )

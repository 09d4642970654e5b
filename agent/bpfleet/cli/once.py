"""`bpfleet once`: one snapshot of each collector, on the terminal."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from bpfleet.cli.supervised import become_supervisor, config_option, duration, is_path

__all__ = ["command"]


@click.command("once")
@click.argument("collectors", metavar="[COLLECTOR]…", nargs=-1)
@config_option
@click.option(
    "--after",
    callback=duration,
    metavar="TIME",
    default="2s",
    show_default=True,
    help="How long to let them count.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json", "msgpack", "folded"]),
    help="How to print; a table on a terminal, JSON lines in a pipe; folded: stacks, for flame graphs.",
)
def command(collectors: tuple[str, ...], path: Path | None, after: float, form: str | None) -> None:
    """Load collectors, let them count, print one snapshot of each map, exit.

    COLLECTOR is a collector's name, or the path of a .bpf.o or .bpf.c; without any, all that the
    configuration enables.
    """
    named = [str(Path(one).absolute()) if is_path(one) else one for one in collectors]
    options = {
        "mode": "once",
        "collectors": named,
        "after": after,
        "format": form or ("table" if sys.stdout.isatty() else "json"),
    }
    become_supervisor(path, options)

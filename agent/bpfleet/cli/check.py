"""`bpfleet check`: is a configuration right, and does everything load that it names?"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from bpfleet.cli.supervised import become_supervisor, try_out

__all__ = ["command"]


@click.command("check")
@click.argument("path", metavar="[CONFIG]", required=False, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--no-load", is_flag=True, help="Don't try to load the programs (no root needed).")
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True)
def command(path: Path | None, no_load: bool, form: str) -> None:
    """Check a configuration, its plugins, and that their programs load; nothing is attached.

    As root the programs are loaded into the kernel, compared with their schemas, and let go. Exit
    code 2 where something is wrong."""
    if os.geteuid() != 0 or no_load:
        if not no_load:
            click.echo("bpfleet: not root, so programs are not loaded", err=True)
        sys.exit(try_out(path, "check", form))
    become_supervisor(path, {"mode": "check", "load": True, "format": form})

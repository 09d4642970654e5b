"""`bpfleet plugins`: what is installed, and what the configuration makes of it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from bpfleet.cli.supervised import become_supervisor, config_option, try_out

__all__ = ["command"]


@click.command("plugins")
@config_option
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True)
def command(path: Path | None, form: str) -> None:
    """List the plugins installed and their states; only those that the configuration enables are imported.

    Exit code 2 where one of those can't be used.
    """
    if os.geteuid() != 0:
        sys.exit(try_out(path, "plugins", form))
    become_supervisor(path, {"mode": "plugins", "format": form})

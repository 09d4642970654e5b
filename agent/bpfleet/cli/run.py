"""`bpfleet run`: the agent."""

from __future__ import annotations

from pathlib import Path

import click

from bpfleet.cli.supervised import become_supervisor, config_option, duration

__all__ = ["command"]


@click.command("run")
@config_option
@click.option(
    "--duration", callback=duration, metavar="TIME", help="End by itself after this time, such as 10s."
)
def command(path: Path | None, duration: float | None) -> None:
    """Run the agent until Ctrl-C or SIGTERM; SIGHUP reads the configuration again."""
    become_supervisor(path, {"mode": "run", "duration": duration})

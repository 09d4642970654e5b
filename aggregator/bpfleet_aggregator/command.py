"""`bpfleet aggregate`, as any plugin adds a command."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from bpfleet.hooks import hookimpl
from bpfleet.settings import Duration
from bpfleet_aggregator import config
from bpfleet_aggregator.user import no_new_privileges

__all__ = ["bpfleet_cli"]


def _duration(context: click.Context, option: click.Parameter, value: str | None) -> float | None:
    try:
        return None if value is None else Duration.parse(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command("aggregate")
@click.option(
    "--config",
    "path",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help=f"Configuration; {config.DEFAULT_PATH} or a built-in one without it.",
)
@click.option(
    "--duration", callback=_duration, metavar="TIME", help="End by itself after this time, such as 10s."
)
@click.option(
    "--check", is_flag=True, help="Say what is wrong with the configuration and its files, and end."
)
def aggregate(path: Path | None, duration: float | None, check: bool) -> None:
    """Receive records from many agents and store them, until Ctrl-C or SIGTERM.

    SIGHUP reads the list of keys again.
    """
    if check:
        _check(path)
        return
    no_new_privileges()
    # Only now: what it imports is not needed for --help, and starts threads.
    from bpfleet_aggregator.service import Service

    Service(config.read(path)).run(duration)


def _check(path: Path | None) -> None:
    from bpfleet_aggregator.trial import problems

    read = config.read(path)
    wrong = list(problems(read))
    for error in wrong:
        click.echo(f"bpfleet: {error}", err=True)
    if wrong:
        sys.exit(2)
    settings = read.aggregator
    keys = "with keys" if settings.encrypted else "without keys"
    click.echo(f"{read.path}: would listen on {', '.join(settings.bind)}; store {read.store}; {keys}")


@hookimpl
def bpfleet_cli(app: click.Group) -> None:
    """The command that is the aggregator."""
    app.add_command(aggregate)

"""The command line: `bpfleet COMMAND`. One module per command; a command is imported when it is used.

Exit codes: 0 done, 1 failed while running, 2 wrong usage or configuration. Errors go to stderr.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module

import click

from bpfleet import __version__
from bpfleet.errors import BpfleetError, ConfigError, ObjectError, PluginError

__all__ = ["app", "main"]

_COMMANDS = {
    "run": "Run the agent.",
    "once": "Load collectors, wait, print one snapshot of each, exit.",
    "status": "Show what the running agent does.",
    "get": "Show variables and control maps of collectors that run.",
    "set": "Change them.",
    "trace": "Show what programs print with bpf_printk.",
    "plugins": "List the plugins installed, and their states.",
    "check": "Check a configuration, its plugins and their programs.",
    "doctor": "Look for what this host lacks.",
    "decode": "Print the records of a file as JSON lines.",
    "inspect": "Show what is inside a .bpf.o.",
    "keys": "Make and show the key pair of this host.",
}

_OUR_PLUGINS = {
    "aggregate": "Receive records from many agents and store them.",
    "query": "Ask the store a question.",
}
"""Commands that come with bpfleet as any plugin's do; told here, so that --help imports nothing."""


class _ReaderGone(Exception):
    """Whoever read our output has gone (`| head`); not an OSError, which click would call a failure."""


class _Commands(click.Group):
    """Our commands, and those of plugins (entry points `cli.NAME`), each imported when it is called."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            result: object = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            raise _ReaderGone from None
        return result

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*_COMMANDS, *sorted(_plugin_commands())]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name in _COMMANDS:
            command: click.Command = import_module(f"bpfleet.cli.{name}").command
            return command
        if name in self.commands:
            return self.commands[name]
        if name in _plugin_commands():
            from bpfleet.plugins import Plugins

            Plugins().hook("cli", name).bpfleet_cli(app=self)
            return self.commands.get(name)
        return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # From the table, so that --help imports nothing.
        rows = list(_COMMANDS.items()) + [
            (name, _told(name, dist)) for name, dist in _plugin_commands().items()
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def _told(name: str, distribution: str) -> str:
    ours = distribution.split()[0] == "bpfleet"
    return _OUR_PLUGINS[name] if ours and name in _OUR_PLUGINS else f"From {distribution}."


def _plugin_commands() -> dict[str, str]:
    from bpfleet.plugins import listed

    return {one.name: one.distribution for one in listed() if one.kind == "cli"}


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "--version", prog_name="bpfleet", message="%(prog)s %(version)s")
def app() -> None:
    """A plugin-based, fleet-wide eBPF telemetry agent.

    bpfleet runs collectors (eBPF programs), takes snapshots of their maps, and hands them to sinks.
    """


def main() -> None:
    """The `bpfleet` program."""
    try:
        status = app(prog_name="bpfleet", standalone_mode=False)
    except BpfleetError as error:
        click.echo(f"bpfleet: {error}", err=True)
        status = 2 if isinstance(error, (ConfigError, PluginError, ObjectError)) else 1
    except click.ClickException as error:
        error.show()
        status = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        status = 130
    except _ReaderGone:
        # No more to say, and nothing to flush at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    sys.exit(status if isinstance(status, int) else 0)

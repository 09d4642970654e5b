"""Handing over to the supervisor: the command line's process becomes it, and stays small."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import click

from bpfleet import config
from bpfleet.errors import BpfleetError, ConfigError
from bpfleet.settings import Duration
from bpfleet.users import chosen_user
from bpfleet.worker.file_collectors import words_file

__all__ = [
    "become_supervisor",
    "config_option",
    "duration",
    "is_path",
    "supervisor_arguments",
    "table_or_json",
    "try_out",
]


def duration(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """Callback of options such as `--after 250ms`; gives seconds."""
    if value is None:
        return None
    try:
        return float(Duration.parse(value))
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, param) from None


config_option = click.option(
    "--config",
    "-c",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    help=f"The configuration; {config.DEFAULT_PATH} where it exists, else a built-in one.",
)


def table_or_json(json_is: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The option `--format`; `json_is` ends the help with what json prints."""
    return click.option(
        "--format",
        "form",
        type=click.Choice(["table", "json"]),
        default="table",
        show_default=True,
        help=f"How to print; json is {json_is}.",
    )


def is_path(name: str) -> bool:
    """Whether a collector's name is a file's."""
    return "/" in name or name.endswith((".o", ".c"))


def become_supervisor(path: Path | None, options: dict[str, Any]) -> NoReturn:
    """Exec the supervisor with this configuration; raises ConfigError where it is wrong."""
    arguments = supervisor_arguments(path, options)
    sys.stdout.flush()
    os.execv(sys.executable, arguments)


def supervisor_arguments(path: Path | None, options: dict[str, Any]) -> list[str]:
    """The command line of a supervisor with this configuration; raises ConfigError where it is wrong.

    `options` (mode, …) are the worker's. The configuration is read again at each reload, where it is a file.
    """
    text, name = config.read(path)
    parsed = config.parse(text, name)
    if not (parsed.collectors or parsed.agent.programs or options.get("collectors")):
        raise ConfigError(
            "the configuration enables no collector",
            where=name,
            remedy="add a table such as [collectors.execve]; bpfleet plugins lists what there is",
        )
    is_file = Path(name).exists()
    boot = {
        "config": str(Path(name).absolute()) if is_file else None,
        # The command line is for all to read: a file's text, which may hold secrets, is not on it.
        "default": "" if is_file else text,
        "user": parsed.agent.user,
        "state": parsed.agent.state,
        "drain": parsed.agent.drain + 2.0,
        "options": options,
        "control": parsed.agent.control if options["mode"] == "run" else "",
        "control_group": parsed.agent.control_group,
        "reads": _read_by_worker(parsed, options),
    }
    # -P: nothing is imported from the current directory, which may be anyone's.
    return [sys.executable, "-P", "-m", "bpfleet.supervisor", json.dumps(boot)]


def _read_by_worker(parsed: config.Config, options: dict[str, Any]) -> list[str]:
    """What the worker reads of files that are collectors; it may lie where only root can go."""
    named = [name for name in (*parsed.collectors, *(options.get("collectors") or ())) if "/" in name]
    beside = [words_file(Path(name)) for name in named]
    folder = [parsed.agent.programs] if parsed.agent.programs else []
    return [*folder, *map(str, beside)]


def try_out(path: Path | None, what: str, form: str) -> int:
    """Check without root, in this process: everything but loading. Returns the exit code."""
    import logging

    from bpfleet import checking
    from bpfleet.worker.startup import Startup

    logging.disable()
    text, name = config.read(path)
    parsed = config.parse(text, name)
    try:
        user = chosen_user(parsed.agent.user, who="worker", table="agent").name
    except BpfleetError:
        user = ""  # said where it matters: when the agent is started
    startup = Startup(parsed, None, user, Path(parsed.agent.state))
    if what == "plugins":
        return checking.report(checking.list_plugins(startup), form)
    return checking.report(checking.check(startup, load=False), form)

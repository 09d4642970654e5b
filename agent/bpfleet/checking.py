"""Trying out what a configuration enables, without running it: for `bpfleet check` and `bpfleet plugins`.

As root this runs in the worker, so that no plugin is imported as root; programs are loaded and
compared with their schema, and not attached."""

from __future__ import annotations

import json
import os
import pwd
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from bpfleet.errors import BpfleetError
from bpfleet.plugins import Listed, State, state_of
from bpfleet.worker.collecting import RunningCollector
from bpfleet.worker.startup import Startup

__all__ = ["Finding", "check", "list_plugins", "report"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of one collector, sink or plugin. `state` is a `plugins.State`, or "ready"."""

    kind: str
    name: str
    state: str
    note: str = ""
    error: str = ""


def check(startup: Startup, *, load: bool) -> list[Finding]:
    """One finding for everything that the configuration names."""
    running = startup.collectors(attach=False) if load else startup.specs()
    found = [Finding("collector", one.name, "ready", _note(one)) for one in running]
    found += _sinks(startup)
    startup.labels()
    found += [
        Finding(one.kind, one.name, one.state.value, "", str(one.error or "")) for one in startup.absent
    ]
    return sorted(found, key=lambda one: (one.kind, one.name))


def _sinks(startup: Startup) -> Iterator[Finding]:
    """Files and folders are judged as the user that sinks run as; as another there is nothing to be said."""
    try:
        look = pwd.getpwnam(startup.user).pw_uid == os.geteuid()
    except KeyError:
        look = False
    for name, kind, wrong in startup.sink_types(look=look):
        if not wrong:
            yield Finding("sink", name, "ready", kind.help)
        for error in wrong:
            yield Finding("sink", name, _state(error), "", str(error))


def _state(error: BpfleetError) -> str:
    """What the sink would be in: where it can't be opened it is tried again and again."""
    state = state_of(error)
    return str((State.QUARANTINED if state is State.LOAD_ERROR else state).value)


def list_plugins(startup: Startup) -> list[Finding]:
    """One finding for every plugin installed; those that the configuration enables are imported and
    checked."""
    named = {(one.kind, one.name): one for one in check(startup, load=False)}
    kinds = {table.get("type", name) for name, table in startup.config.sinks.items()}
    found = []
    for one in startup.plugins.all:
        checked = named.pop((one.kind, one.name), None)
        if checked is not None:
            found.append(Finding(one.kind, one.name, checked.state, one.distribution, checked.error))
        elif one.kind == "sink" and one.name in kinds:
            found.append(Finding(one.kind, one.name, "ready", one.distribution))
        else:
            found.append(_unused(one, startup))
    return found + [one for one in named.values() if one.error]


def _unused(one: Listed, startup: Startup) -> Finding:
    try:
        startup.plugins.candidates(one.kind, one.name)
    except BpfleetError as error:
        return Finding(one.kind, one.name, state_of(error).value, one.distribution, str(error))
    return Finding(one.kind or "?", one.name, State.DISABLED.value, one.distribution)


def _note(running: Any) -> str:
    if not isinstance(running, RunningCollector):
        return str(getattr(running, "help", ""))
    read = [f"{one.name} ({one.reader.method})" for one in running.maps]
    rungs = [f"{one.name} by {one.taken or 'none'}" for one in running.ladders]
    said = {"maps": read, "alternatives": rungs}
    return "; ".join(f"{what}: {', '.join(names)}" for what, names in said.items() if names)


def report(findings: Iterable[Finding], form: str) -> int:
    """Print the findings (as `table` or `json`); returns 2 where one of them is an error, else 0."""
    findings = list(findings)
    if form == "json":
        for one in findings:
            print(json.dumps({name: getattr(one, name) for name in one.__dataclass_fields__}))
    else:
        _table(findings)
    for one in findings:
        if one.error and form != "json":
            print(f"\nbpfleet: {one.kind} {one.name!r} ({one.state}): {one.error}", file=sys.stderr)
    return 2 if any(one.error for one in findings) else 0


def _table(findings: list[Finding]) -> None:
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        table = Table("kind", "name", "state", "", box=None, header_style="dim", pad_edge=False)
        for one in findings:
            colour = {"ready": "green", "disabled": "dim"}.get(one.state, "red")
            table.add_row(one.kind, one.name, f"[{colour}]{one.state}[/]", one.note)
        Console().print(table)
        return
    widths = [
        max((len(getattr(one, part)) for one in findings), default=0) for part in ("kind", "name", "state")
    ]
    for one in findings:
        cells = [
            text.ljust(width) for text, width in zip((one.kind, one.name, one.state), widths, strict=True)
        ]
        print("  ".join([*cells, one.note]).rstrip())

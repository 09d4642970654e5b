"""The sinks of the configuration: whether each has what it needs, as `bpfleet check` finds it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bpfleet.doctor.child import ChildFailed, in_child, run_command
from bpfleet.doctor.finding import Finding, Subject, missing, ok, unseen
from bpfleet.supervisor.confinement import barred, needed_paths, open_the_way
from bpfleet.supervisor.privileges import drop_to

__all__ = ["sinks"]

_CHECK = "from bpfleet.cli import main; main()"


def sinks(subject: Subject) -> Iterator[Finding]:
    """As the worker's user: plugins are not imported as root, and what root can read says nothing."""
    if subject.config is None or not subject.config.sinks:
        return  # said of the configuration
    if not subject.root or subject.user_problem is not None:
        yield unseen("sink", "only root can become the worker's user to try")
        return
    path = subject.config.path
    file = [path] if os.path.exists(path) else []
    behind = barred(needed_paths(subject.state, *map(Path, file)), subject.user)

    def try_it() -> list[dict[str, Any]] | str:
        open_the_way(behind)
        drop_to(subject.user, keep_bpf=False)
        if file and not os.access(path, os.R_OK):
            return f"user {subject.user.name} may not read {path}"
        command = [sys.executable, "-P", "-c", _CHECK, "check", "--no-load", "--format", "json", *file]
        return [json.loads(line) for line in run_command(command, seconds=40).stdout.splitlines()]

    try:
        found = in_child(try_it, seconds=50)
    except ChildFailed as error:
        found = str(error)
    if isinstance(found, str):
        yield unseen("sink", found, "bpfleet check, as root, says it of this configuration")
        return
    for one in found:
        if one["kind"] == "sink" and one["state"] != "disabled":
            yield _finding(one)


def _finding(one: dict[str, Any]) -> Finding:
    if not one["error"]:
        return ok("sink", f"{one['name']}: has what it needs")
    told, _, remedy = one["error"].partition("\n  remedy: ")
    detail, _, where = told.partition("\n  where:  ")
    told = f"{one['name']}: {detail}" + (f" ({where})" if where else "")
    return missing("sink", told, remedy.partition("\n")[0])

"""What this host has of what the agent needs: tried for real, in processes that end.

    finding      one line: ok, warn or missing; what, detail, remedy
    child        processes that end, and what they said
    kernel       release, BTF, configuration, preemption, JIT, lockdown
    attaching    what a program can be attached to, seen to count an event
    attach_kinds the ways to attach, each with its probe
    reading      maps: kinds, the snapshot program, reading by the worker's user
    mounts       tracefs, bpffs, debugfs
    privileges   capabilities, limits, sysctls, seccomp, containers
    tools        libbpf, clang, bcc, kernel headers, Python packages
    agent        configuration, worker's user, code, state directory, id
    sinks        what each sink of the configuration needs

A new check is one function `(Subject) -> Iterable[Finding]` and one name in `AREAS`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from bpfleet.doctor.agent import subject_of
from bpfleet.doctor.child import Child, ChildFailed, in_words
from bpfleet.doctor.finding import Finding, State, Subject, unseen

__all__ = ["AREAS", "Finding", "State", "examine"]

AREAS: dict[str, tuple[str, tuple[str, ...]]] = {
    # area: (module, its checks)
    "kernel": ("kernel", ("release", "btf", "configuration", "preemption", "jit", "lockdown")),
    "attaching": ("attaching", ("attaching",)),
    "reading": ("reading", ("map_kinds", "reading")),
    "mounts": ("mounts", ("mounts",)),
    "privileges": (
        "privileges",
        ("root", "capabilities", "limits", "sysctls", "seccomp", "container"),
    ),
    "libraries": ("tools", ("libbpf", "clang", "bcc", "headers", "python_packages")),
    "agent": ("agent", ("configuration", "worker", "as_worker")),
    "sinks": ("sinks", ("sinks",)),
}

_SECONDS = 60.0
"""Only what hangs takes so long; an emulated machine that reads its files over a network needs half of it."""
_TELL_US = "run it again; if it stays so, please report this line"


def examine(config: Path | None = None) -> Iterator[Finding]:
    """Everything, by area; `config` is the configuration's path, None for what `bpfleet run` would take.

    Each area is looked at in a process of its own, all at the same time: what one of them mounts, maps or
    loads is gone with it, and one that crashes costs only what it had not yet found.
    """
    subject = subject_of(config)
    children = {area: Child(_looking_at(area, subject), seconds=_SECONDS) for area in AREAS}
    try:
        for area, child in children.items():
            try:
                for plain in child.results():
                    yield Finding(**{**plain, "state": State(plain["state"]), "area": area})
            except ChildFailed as error:
                yield replace(unseen(f"rest of {area}", str(error), _TELL_US), area=area)
    finally:
        for child in children.values():
            child.end()


def _looking_at(area: str, subject: Subject) -> Callable[[], Iterator[dict[str, Any]]]:
    def look() -> Iterator[dict[str, Any]]:
        # numpy's threads would be of no use, and don't survive a fork.
        os.environ["OPENBLAS_NUM_THREADS"] = "1"
        name, checks = AREAS[area]
        module = import_module(f"bpfleet.doctor.{name}")
        return (asdict(one) for check in checks for one in _run(getattr(module, check), subject))

    return look


def _run(check: Any, subject: Subject) -> Iterator[Finding]:
    """A check's findings; one that fails is a finding too, and does not stop the next."""
    try:
        yield from check(subject)
    except Exception as error:
        yield unseen(check.__name__, f"the check failed at {in_words(error)}", _TELL_US)

"""Attaching programs that are in the kernel to what has come since: copies of libraries in containers, CPUs.

A copy is told from another by inode number, size and time of change, not by device: two containers of one
image have one file, seen through two overlay file systems, and a probe in it is hit for both.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from bpfleet.errors import AttachError
from bpfleet.loader.attach_perf import attach_on_cpu
from bpfleet.loader.linking import Links
from bpfleet.loader.perf_events import online_cpus
from bpfleet.loader.symbols import library_path, mapped_files
from bpfleet.loader.uprobes import UPROBE_KINDS, attach_in
from bpfleet.protocol import Rescan, Rescanned, typed
from bpfleet.spec import Attach

__all__ = ["Found", "attach_new", "known_at_load", "rescan"]

_MOST_COPIES = 64
_MOST_PROCESSES = 20_000


@dataclass
class Found:
    """What there is now, the fds for what was new, what a program is attached to beside its first place."""

    present: list[str] = field(default_factory=list)
    new: dict[str, list[int]] = field(default_factory=dict)
    attached: dict[str, str] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)


def known_at_load(places: Sequence[Attach]) -> list[str]:
    """What programs are attached to once they are loaded, as a rescan names it."""
    found = []
    for at, place in enumerate(places):
        if place.kind == "perf_event":
            found += [f"{at} cpu {cpu}" for cpu in online_cpus()]
        elif place.everywhere and place.kind in UPROBE_KINDS:
            found += [f"{at} file {identity}" for identity in _first(place)]
    return found


def attach_new(places: Sequence[Attach], programs: Mapping[str, int], known: Collection[str]) -> Found:
    """Attach to what is there and not `known`. What can't be attached is told once, and counts as known."""
    found = Found()
    for at, place in enumerate(places):
        program = programs.get(place.program)
        if program is None:
            continue
        if place.kind == "perf_event":
            cpus = online_cpus()
            for cpu in cpus:
                _take(found, known, f"{at} cpu {cpu}", partial(attach_on_cpu, program, place, cpu))
            _describe(found, place.program, f"on CPUs {', '.join(map(str, cpus))}")
        elif place.everywhere and place.kind in UPROBE_KINDS:
            copies = _copies(place)
            if len(copies) > _MOST_COPIES:
                found.errors.append(
                    f"program {place.program!r}: {len(copies)} copies of {place.target} are in use; "
                    f"it is attached in {_MOST_COPIES}"
                )
            for identity, path in list(copies.items())[:_MOST_COPIES]:
                _take(found, known, f"{at} file {identity}", partial(attach_in, program, path, place))
            more = len(copies.keys() - _first(place).keys())
            _describe(found, place.program, f"in {more} more file{'s' * (more != 1)}" if more else "")
    return found


def rescan(message: dict[str, Any], received: Sequence[int], add: Callable[[int], int]) -> Rescanned:
    """Do what a `Rescan` says with the fds that came with it; `add` numbers those that go back."""
    request = typed(message, Rescan)
    programs = {name: received[at] for name, at in request.programs.items()}
    places = [Attach(*place) for place in request.request.attach]
    found = attach_new(places, programs, frozenset(request.known))
    return Rescanned(
        collector=request.collector,
        present=tuple(found.present),
        new={name: tuple(add(fd) for fd in links) for name, links in found.new.items()},
        attached=found.attached,
        errors=tuple(found.errors),
    )


def _take(found: Found, known: Collection[str], name: str, attach: Callable[[], Links]) -> None:
    found.present.append(name)
    if name in known:
        return
    try:
        found.new[name] = list(attach())
    except AttachError as error:
        found.errors.append(str(error))
        found.new[name] = []


def _describe(found: Found, program: str, text: str) -> None:
    before = found.attached.get(program)
    found.attached[program] = f"{before}, {text}" if before and text else text or before or ""


def _first(place: Attach) -> dict[str, Path]:
    """The host's own copy; none where it has none."""
    try:
        path = library_path(place.target, place.program)
        return {_identity(path): path}
    except (AttachError, OSError):
        return {}


def _copies(place: Attach) -> dict[str, Path]:
    """Identity → a path from here, of each copy of the library that some process uses; the host's first."""
    found = _first(place)
    roots: set[int] = set()
    for pid in _processes():
        try:
            if "/" in place.target:
                namespace = os.stat(f"/proc/{pid}/ns/mnt").st_ino
                paths = [] if namespace in roots else [Path(f"/proc/{pid}/root{place.target}")]
                roots.add(namespace)
            else:
                paths = mapped_files(pid, place.target)
            for path in paths:
                if path.exists():
                    found.setdefault(_identity(path), path)
        except OSError:
            continue  # it has ended
    return found


def _processes() -> Iterator[int]:
    pids = sorted(int(name) for name in os.listdir("/proc") if name.isdigit())
    return iter(pids[:_MOST_PROCESSES])


def _identity(path: Path) -> str:
    status = path.stat()
    return f"{status.st_ino}:{status.st_size}:{status.st_mtime_ns}"

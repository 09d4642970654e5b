"""What a program can be attached to here: each kind is loaded, attached, and has to see an event."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import suppress

from bpfleet.doctor.attach_kinds import EVENT_SOURCES, KINDS, TYPES, AttachKind, NotHere, Probed, stir
from bpfleet.doctor.finding import Finding, Subject, missing, ok, unseen, warn
from bpfleet.doctor.kernel_btf import type_ids
from bpfleet.doctor.kernel_config import read_config
from bpfleet.errors import BpfleetError
from bpfleet.loader.tracing_mounts import mount_privately

__all__ = ["attaching"]

_SECONDS_TO_WAIT = 0.1


def attaching(subject: Subject) -> Iterator[Finding]:
    """One finding for each kind; one for all where the kernel refuses all for the same reason."""
    if not subject.root:
        there = [name for name in ("tracepoint", "uprobe", "kprobe", "software") if _has_source(name)]
        yield unseen("attaching", f"needs root; the kernel has event sources {', '.join(there) or 'unknown'}")
        return
    # Where it is refused, that is told under mounts, and tracepoints say what they lack.
    with suppress(BpfleetError):
        mount_privately()
    # The same: the kernel's BTF has a finding of its own.
    ids: Mapping[str, int] = {}
    with suppress(OSError, ValueError):
        ids = type_ids(TYPES)
    problems = {kind.name: _problem(kind, ids) for kind in KINDS}
    if not any(kind.tracing and not problems[kind.name] for kind in KINDS):
        reasons = "; ".join(dict.fromkeys(one for one in problems.values() if one))
        yield missing(
            "tracing",
            f"no program can be attached to anything that collectors use: {reasons}",
            "run as root on the host (in a container: privileged), on a kernel with CONFIG_BPF_EVENTS",
        )
        if len(set(problems.values())) == 1:
            return
    config = read_config()
    options = None if config is None else config.options
    for kind in KINDS:
        problem = problems[kind.name]
        yield _not_here(kind, problem, options) if problem else ok(kind.name, kind.detail)


def _has_source(name: str) -> bool:
    return (EVENT_SOURCES / name).exists()


def _problem(kind: AttachKind, ids: Mapping[str, int]) -> str:
    """Why programs of that kind can't be attached, or see nothing; "" where they can and do."""
    try:
        probed = Probed(ids)
        kind.attach(probed)
        deadline = time.monotonic() + _SECONDS_TO_WAIT
        while not probed.counter.events and time.monotonic() < deadline:
            stir()
    except NotHere as error:
        return str(error)
    except OSError as error:
        return f"the kernel refuses: {error.strerror}"
    return "" if probed.counter.events else "it attaches, and sees no event"


def _not_here(kind: AttachKind, problem: str, options: Mapping[str, str] | None) -> Finding:
    unset = [name for name in kind.options if options is not None and options.get(name, "n") == "n"]
    why = f"CONFIG_{unset[0]} is not set ({problem})" if unset else problem
    return warn(kind.name, f"not here: {why}", kind.instead)

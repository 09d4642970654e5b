"""What the agent says of itself: the body of a `status` record."""

from __future__ import annotations

import os
import platform
import resource
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bpfleet import __version__
from bpfleet.draining.drainer import Drainer
from bpfleet.errors import BpfleetError
from bpfleet.kernel import boottime_ns
from bpfleet.plugins import State
from bpfleet.protocol import LoadedLadder
from bpfleet.worker.collecting import RunningCollector
from bpfleet.worker.delivery import Delivery
from bpfleet.worker.running_map import RunningMap

__all__ = ["Absent", "body", "pss_bytes"]

_UNCOUNTED = "neither the kernel nor the program counts events that find no room (docs/draining.md)"


_NEWEST = 100
"""Changes that are told one by one."""


@dataclass(frozen=True, slots=True)
class Absent:
    """A collector or sink that does not run, and why."""

    name: str
    kind: str
    state: State
    error: BpfleetError | None = None


def body(
    run: int,
    collectors: Iterable[RunningCollector],
    sinks: Iterable[Delivery],
    absent: Iterable[Absent],
    labels: Mapping[str, str],
) -> dict[str, Any]:
    """`software`, `collectors`, `sinks` and `labels`, as docs/wire.md describes them."""
    absent = list(absent)
    return {
        "software": _software(run),
        "collectors": [_collector(one) for one in collectors]
        + [_absent(one) for one in absent if one.kind == "collector"],
        "sinks": [_sink(one) for one in sinks] + [_absent(one) for one in absent if one.kind == "sink"],
        "labels": dict(labels),
    }


def _software(run: int) -> dict[str, Any]:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "version": __version__,
        "python": platform.python_version(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "pid": os.getpid(),
        "uptime_s": (boottime_ns() - run) / 1e9,
        "cpu_s": used.ru_utime + used.ru_stime,
        "pss_bytes": pss_bytes("self"),
    }


def pss_bytes(pid: str) -> int:
    """A process's proportional set size (`/proc/PID/smaps_rollup`); 0 where it can't be read."""
    try:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            for line in file:
                if line.startswith("Pss:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def _collector(one: RunningCollector) -> dict[str, Any]:
    changes = [
        {"what": change.name, "value": change.value, "at": change.at, "uid": change.uid}
        for change in sorted(one.controls.changes.values(), key=lambda change: change.at)[-_NEWEST:]
    ]
    return {
        "name": one.name,
        "version": one.version,
        "state": one.state.value,
        "error": _error(one.error),
        "generation": one.generation,
        "interval_s": one.interval,
        "programs": one.programs,
        **({"ladders": [_ladder(ladder) for ladder in one.ladders]} if one.ladders else {}),
        "maps": [_map(running) for running in one.maps],
        **({"changed": len(one.controls.changes), "changes": changes} if changes else {}),
    }


def _ladder(one: LoadedLadder) -> dict[str, Any]:
    return {
        "name": one.name,
        "taken": one.taken,
        "rung": one.rung,
        "rungs": one.rungs,
        "refused": list(one.refused),
    }


def _map(one: RunningMap) -> dict[str, Any]:
    return {
        "name": one.name,
        "type": one.reader.info.type_name,
        "method": one.reader.method,
        "why_not": one.reader.why_not,
        **({"left_out": one.left_out} if one.left_out else {}),
        "rows": one.cost.rows,
        "entries": one.cost.entries,
        "max_entries": one.reader.max_entries,
        "reads": one.cost.reads,
        "read_ns": one.cost.read_ns,
        "bytes": one.cost.bytes,
        "memory_bytes": one.reader.memory_bytes,
        **_events(one),
    }


def _events(one: RunningMap) -> dict[str, Any]:
    """What is said of a drained map besides."""
    if not isinstance(one.reader, Drainer):
        return {}
    said = {
        "events": one.reader.events,
        "event_sizes": one.reader.sizes,
        "found_full": one.reader.found_full,
        "losses": one.losses_so_far(),
    }
    if one.event_type:
        said["event_type"] = one.event_type
    if not one.reader.losses_known:
        said["losses_unknown"] = _UNCOUNTED
    return said


def _sink(one: Delivery) -> dict[str, Any]:
    records, size = one.queued
    blocked = one.blocked_for
    spool = {"spool": dict(one.spool)} if one.spool else {}
    return {
        "name": one.name,
        "type": one.kind,
        "state": one.state.value,
        "error": _error(one.error)
        or ({"what": f"a write has not returned for {blocked:.0f} s"} if blocked else None),
        "queued": records,
        "queued_bytes": size,
        "written": one.written,
        "dropped": one.dropped,
        **spool,
    }


def _absent(one: Absent) -> dict[str, Any]:
    return {"name": one.name, "state": one.state.value, "error": _error(one.error)}


def _error(error: BpfleetError | None) -> dict[str, str] | None:
    return None if error is None else error.to_plain()

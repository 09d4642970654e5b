"""Attaching to a perf event: samples at a frequency, on every CPU that is online."""

from __future__ import annotations

from bpfleet.errors import AttachError
from bpfleet.loader.libbpf import ProgramHandle, library
from bpfleet.loader.linking import Links, link, refused
from bpfleet.loader.perf_events import online_cpus, open_event
from bpfleet.spec import Attach

__all__ = ["attach_perf_event"]

# (enum perf_type_id, config) of linux/perf_event.h
_EVENTS = {
    "cpu-clock": (1, 0),
    "task-clock": (1, 1),
    "page-faults": (1, 2),
    "context-switches": (1, 3),
    "cpu-migrations": (1, 4),
    "cpu-cycles": (0, 0),
    "instructions": (0, 1),
    "cache-references": (0, 2),
    "cache-misses": (0, 3),
}
_DEFAULT_FREQUENCY = 99
_BY_FREQUENCY = 1 << 10  # `freq` in the flags of struct perf_event_attr


def attach_perf_event(program: ProgramHandle, wanted: Attach) -> Links:
    """Run `program` at each sample of the event that `wanted.target` names, `frequency` times a second."""
    event = _EVENTS.get(wanted.target)
    if event is None:
        raise AttachError(
            f"program {program.name!r}: there is no perf event {wanted.target!r}",
            where="attach list, perf_event",
            remedy=f"use one of {', '.join(_EVENTS)}",
        )
    where = f"perf_event {wanted.target}"
    links: list[int] = []
    for cpu in online_cpus():
        try:
            sampler = open_event(
                *event, period=wanted.frequency or _DEFAULT_FREQUENCY, flags=_BY_FREQUENCY, cpu=cpu
            )
        except OSError as error:
            raise refused(
                program,
                where,
                "this machine has no such counter (a virtual one seldom has); cpu-clock is always there",
                code=error.errno or 0,
            ) from None
        links += [sampler, *_attached(program, sampler, where)]
    return tuple(links)


def _attached(program: ProgramHandle, sampler: int, where: str) -> Links:
    return link(lambda: library().bpf_program__attach_perf_event(program.handle, sampler), program, where)

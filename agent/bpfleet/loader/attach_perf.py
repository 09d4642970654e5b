"""Attaching to a perf event: samples at a frequency, on every CPU that is online."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from bpfleet.errors import AttachError
from bpfleet.loader.libbpf import ProgramHandle
from bpfleet.loader.linking import Links
from bpfleet.loader.perf_events import online_cpus, open_event, run_at
from bpfleet.spec import Attach

__all__ = ["attach_on_cpu", "attach_perf_event"]

# (enum perf_type_id, config) of linux/perf_event.h
_EVENTS = {
    "cpu-clock": (1, 0),
    "task-clock": (1, 1),
    "page-faults": (1, 2),
    "context-switches": (1, 3),
    "cpu-migrations": (1, 4),
    "minor-faults": (1, 5),
    "major-faults": (1, 6),
    "cpu-cycles": (0, 0),
    "instructions": (0, 1),
    "cache-references": (0, 2),
    "cache-misses": (0, 3),
}
_DEFAULT_FREQUENCY = 99
_MOST_SAMPLES = Path("/proc/sys/kernel/perf_event_max_sample_rate")
_BY_FREQUENCY = 1 << 10  # `freq` in the flags of struct perf_event_attr


def attach_perf_event(program: ProgramHandle, wanted: Attach) -> Links:
    """Run `program` at each sample of the event that `wanted.target` names, `frequency` times a second, or
    once for every `period` events."""
    if wanted.period and wanted.frequency:
        raise AttachError(
            f"program {program.name!r} has a frequency and a period",
            where="attach list, perf_event",
            remedy="give one of them",
        )
    for name, number in (("frequency", wanted.frequency), ("period", wanted.period)):
        if not 0 <= number < 1 << 63:
            raise AttachError(
                f"program {program.name!r} has the {name} {number}",
                where="attach list, perf_event",
                remedy="give how many samples a second, or every how many events",
            )
    if wanted.target not in _EVENTS:
        raise AttachError(
            f"program {program.name!r}: there is no perf event {wanted.target!r}",
            where="attach list, perf_event",
            remedy=f"use one of {', '.join(_EVENTS)}",
        )
    return tuple(fd for cpu in online_cpus() for fd in attach_on_cpu(program.fd, wanted, cpu))


def attach_on_cpu(program: int, wanted: Attach, cpu: int) -> Links:
    """Run the program of that fd at each sample of one CPU; raises AttachError."""
    event = None
    try:
        event = open_event(
            *_EVENTS[wanted.target],
            period=wanted.period or wanted.frequency or _DEFAULT_FREQUENCY,
            flags=0 if wanted.period else _BY_FREQUENCY,
            cpu=cpu,
        )
        run_at(event, program)
    except OSError as error:
        if event is not None:
            os.close(event)
        elif error.errno == errno.EINVAL and wanted.frequency > (most := _most_samples()):
            raise AttachError(
                f"program {wanted.program!r} is to run {wanted.frequency} times a second; this kernel allows "
                f"{most}",
                where=f"perf_event {wanted.target}, CPU {cpu}",
                remedy=f"ask for fewer, or raise {_MOST_SAMPLES}",
            ) from None
        raise AttachError(
            f"program {wanted.program!r} can't be attached: {error.strerror}",
            where=f"perf_event {wanted.target}, CPU {cpu}",
            remedy="this machine has no such counter (a virtual one seldom has); cpu-clock is always there",
        ) from None
    return (event,)


def _most_samples() -> int:
    """Samples a second that the kernel allows; it lowers this by itself where samples take long."""
    return int(_MOST_SAMPLES.read_text())

"""Attaching to a perf event: samples at a frequency, on every CPU that is online."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from pathlib import Path

from bpfleet.errors import AttachError
from bpfleet.loader.libbpf import ProgramHandle, library
from bpfleet.loader.linking import Links, link, refused
from bpfleet.spec import Attach

__all__ = ["attach_perf_event", "online_cpus", "open_perf_event"]

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
_ATTRIBUTES = "<IIQQQQQ"
_ATTRIBUTES_SIZE = 112  # PERF_ATTR_SIZE_VER5
_CLOEXEC = 8
_NUMBERS = {"x86_64": 298, "aarch64": 241}

_syscall = ctypes.CDLL(None, use_errno=True).syscall


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
            sampler = _open(*event, wanted.frequency or _DEFAULT_FREQUENCY, cpu)
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


def _open(kind: int, config: int, frequency: int, cpu: int) -> int:
    attributes = struct.pack(
        _ATTRIBUTES, kind, _ATTRIBUTES_SIZE, config, frequency, 0, 0, _BY_FREQUENCY
    ).ljust(_ATTRIBUTES_SIZE, b"\0")
    return open_perf_event(attributes, cpu)


def open_perf_event(attributes: bytes, cpu: int) -> int:
    """perf_event_open(2) of all processes on one CPU; `attributes` are a `struct perf_event_attr`. Raises
    OSError."""
    number = _NUMBERS[platform.machine()]
    fd: int = _syscall(number, ctypes.c_char_p(attributes), -1, cpu, -1, _CLOEXEC)
    if fd < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return fd


def online_cpus() -> list[int]:
    """The CPUs that are online now."""
    found: list[int] = []
    for part in Path("/sys/devices/system/cpu/online").read_text().strip().split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found

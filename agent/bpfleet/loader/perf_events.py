"""perf_event_open(2): one event, and the CPUs there are."""

from __future__ import annotations

import ctypes
import fcntl
import os
import platform
import struct
from pathlib import Path

__all__ = ["online_cpus", "open_event", "open_perf_event", "run_at"]

_ATTRIBUTES = struct.Struct("<IIQQQQQII")  # up to bp_type; config1 and config2 follow
_ATTRIBUTES_SIZE = 112  # PERF_ATTR_SIZE_VER5
_CLOEXEC = 8
_SET_BPF, _ENABLE = 0x40042408, 0x2400  # PERF_EVENT_IOC_…
_NUMBERS = {"x86_64": 298, "aarch64": 241}
_ONLINE = Path("/sys/devices/system/cpu/online")

_syscall = ctypes.CDLL(None, use_errno=True).syscall


def open_event(
    kind: int,
    config: int,
    *,
    period: int = 0,
    flags: int = 0,
    pid: int = -1,
    cpu: int = -1,
    more: bytes = b"",
) -> int:
    """An event's fd; `more` is config1 and config2. OSError where the kernel refuses."""
    attributes = _ATTRIBUTES.pack(kind, _ATTRIBUTES_SIZE, config, period, 0, 0, flags, 0, 0) + more
    return open_perf_event(attributes, cpu, pid)


def open_perf_event(attributes: bytes, cpu: int, pid: int = -1) -> int:
    """The fd of an event; `attributes` are a `struct perf_event_attr`. OSError where the kernel refuses."""
    number = _NUMBERS[platform.machine()]
    buffer = ctypes.create_string_buffer(attributes, max(len(attributes), _ATTRIBUTES_SIZE))
    fd: int = _syscall(number, buffer, pid, cpu, -1, _CLOEXEC)
    if fd < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return fd


def run_at(event: int, program: int) -> None:
    """Have the program of that fd run whenever the event occurs; the event's fd keeps it there."""
    fcntl.ioctl(event, _SET_BPF, program)
    fcntl.ioctl(event, _ENABLE, 0)


def online_cpus() -> list[int]:
    """The CPUs that are online now."""
    found: list[int] = []
    for part in _ONLINE.read_text().strip().split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found

"""perf_event_open(2): one event, and the CPUs there are."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from pathlib import Path

__all__ = ["online_cpus", "open_event"]

_ATTRIBUTES = struct.Struct("<IIQQQQQII")  # up to bp_type; config1 and config2 follow
_ATTRIBUTES_SIZE = 112  # PERF_ATTR_SIZE_VER5
_CLOEXEC = 8
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
    number = _NUMBERS[platform.machine()]
    buffer = ctypes.create_string_buffer(attributes, _ATTRIBUTES_SIZE)
    fd: int = _syscall(number, buffer, pid, cpu, -1, _CLOEXEC)
    if fd < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return fd


def online_cpus() -> list[int]:
    """The CPUs that are online now."""
    found: list[int] = []
    for part in _ONLINE.read_text().strip().split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found

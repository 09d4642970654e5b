"""What only the benchmarks ask of the kernel: filling maps in bulk, the time and runs of programs.

Through libbpf.so.1, which the agent's loader uses too. The layout of `struct bpf_prog_info` is from the
kernel's `include/uapi/linux/bpf.h`.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["ProgramStats", "program_stats", "stats_enabled", "update_batch"]

_lib = ctypes.CDLL("libbpf.so.1", use_errno=True)
_lib.bpf_map_update_batch.argtypes = [ctypes.c_int, *[ctypes.c_void_p] * 4]
_lib.bpf_obj_get_info_by_fd.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]

_BPF_STATS_RUN_TIME = 0
_INFO_BYTES, _NAME_AT, _RUN_TIME_AT = 216, 64, 192


def _checked(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def update_batch(fd: int, keys: npt.NDArray[np.uint8], values: npt.NDArray[np.uint8], count: int) -> None:
    """Put `count` entries whose bytes follow one another in `keys` and `values`."""
    done = ctypes.c_uint32(count)
    _checked(_lib.bpf_map_update_batch(fd, keys.ctypes.data, values.ctypes.data, ctypes.byref(done), None))


@dataclass(frozen=True, slots=True)
class ProgramStats:
    """A program in the kernel: its time and runs while statistics were enabled."""

    id: int
    name: str
    run_ns: int
    runs: int


@contextmanager
def stats_enabled() -> Iterator[None]:
    """While it lasts the kernel counts each program's time and runs (BPF_ENABLE_STATS, Linux 5.8)."""
    fd = _checked(_lib.bpf_enable_stats(_BPF_STATS_RUN_TIME))
    try:
        yield
    finally:
        os.close(fd)


def program_stats() -> dict[int, ProgramStats]:
    """Every program in the kernel, by id."""
    found: dict[int, ProgramStats] = {}
    number = ctypes.c_uint32(0)
    while _lib.bpf_prog_get_next_id(number, ctypes.byref(number)) == 0:
        fd = _lib.bpf_prog_get_fd_by_id(number)
        if fd < 0:  # gone meanwhile
            continue
        try:
            found[number.value] = _stats(fd, number.value)
        finally:
            os.close(fd)
    return found


def _stats(fd: int, number: int) -> ProgramStats:
    info = ctypes.create_string_buffer(_INFO_BYTES)
    size = ctypes.c_uint32(_INFO_BYTES)
    _checked(_lib.bpf_obj_get_info_by_fd(fd, info, ctypes.byref(size)))
    name = info.raw[_NAME_AT : _NAME_AT + 16].partition(b"\0")[0].decode()
    run_ns, runs = struct.unpack_from("=QQ", info.raw, _RUN_TIME_AT)
    return ProgramStats(number, name, run_ns, runs)

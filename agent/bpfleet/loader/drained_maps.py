"""What a drained map needs beside itself: the drain program, the rings of a perf event array, the worker's
book."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import struct
from collections.abc import Callable

from bpfleet import kernel
from bpfleet.errors import LoadError, UnsupportedError
from bpfleet.events import padded
from bpfleet.loader.backend import CompiledMap
from bpfleet.loader.compile import object_for
from bpfleet.loader.knobs import write_knobs
from bpfleet.loader.libbpf import Log, Object
from bpfleet.loader.logs import telling_lines
from bpfleet.loader.perf_events import online_cpus, open_perf_event
from bpfleet.protocol import Load, LoadedMap
from bpfleet_bpf import DRAIN

__all__ = ["event_type", "prepare_drained"]

_BOOK_BYTES = 64  # bpfleet.draining.book
_ARRAY, _MMAPABLE = 2, 1 << 10
_ROWS_BYTES = 1 << 20
_SOFTWARE, _BPF_OUTPUT = 1, 10
_RAW, _READ_LOST, _WATERMARK = 1 << 10, 1 << 4, 1 << 14
_ATTRIBUTES, _ATTRIBUTES_SIZE = "<IIQQQQQIIQ", 112
_ENABLE = 0x2400

AddFd = Callable[[int], int]


def prepare_drained(
    described: LoadedMap, fd: int, info: kernel.MapInfo, perf_buffer: int, add: AddFd
) -> None:
    """Make it, and fill in `described`; raises LoadError where a perf event array can't get its rings.

    Whatever `add` is given is sent along; it returns the index.
    """
    described.book_fd = add(kernel.create_map(_ARRAY, 4, _BOOK_BYTES, 1, _MMAPABLE))
    if info.type_name == "perf_event_array":
        _open_rings(described, fd, perf_buffer, add)
    elif info.type_name in ("queue", "stack"):
        try:
            _load_program(described, fd, info, add)
        except UnsupportedError as error:
            described.walk_refused = f"{error}; values are taken one by one"


def event_type(one: CompiledMap, request: Load) -> str:
    """How the layout of the map's events was found, in words."""
    words = request.words.get(one.name)
    if one.events is None or request.maps:
        return ""
    return words.event if words and words.event else one.events.guess(one.name).how


def _load_program(described: LoadedMap, fd: int, info: kernel.MapInfo, add: AddFd) -> None:
    path = object_for(DRAIN)
    program = Object(str(path))
    rows = max(1, min(info.max_entries, _ROWS_BYTES // padded(info.value_size)))
    write_knobs(program, path, {"most_rows": rows})
    log = Log()
    try:
        with log:
            program.map("target").set(
                type=info.type,
                key_size=0,
                value_size=info.value_size,
                max_entries=info.max_entries,
                reuse_fd=fd,
            )
            program.map("rows").set(value_size=padded(info.value_size), max_entries=rows)
            program.load()
    except OSError as error:
        raise UnsupportedError(
            f"the drain program can't be loaded for this map: {error.strerror or error}",
            log=telling_lines(log.text),
        ) from None
    described.walk_fd = add(os.dup(next(iter(program.programs())).fd))
    described.rows_fd = add(os.dup(program.map("rows").fd))
    described.state_fd = add(os.dup(program.map(".bss").fd))
    described.rows_capacity = rows
    program.close()


def _open_rings(described: LoadedMap, fd: int, wanted: int, add: AddFd) -> None:
    """A ring for each CPU that is online. All have the same size: what the kernel lets us lock for each."""
    size = mmap.PAGESIZE
    while size * 2 <= wanted:
        size *= 2
    cpus = [cpu for cpu in online_cpus() if cpu < described.max_entries]
    try:
        opened, described.perf_counts = _events(cpus, size)
        while not _mapped(opened, size):
            for one in opened:
                os.close(one)
            size //= 2
            opened, described.perf_counts = _events(cpus, size)
        for cpu, event in zip(cpus, opened, strict=True):
            _put(fd, cpu, event)
            fcntl.ioctl(event, _ENABLE, 0)
    except OSError as error:
        raise LoadError(
            f"map {described.name!r} gets no perf rings: {error.strerror or error}",
            where=f"map {described.name!r}, perf_event_open",
            remedy="a smaller perf_buffer, or a larger /proc/sys/kernel/perf_event_mlock_kb",
        ) from None
    described.perf_fds = tuple(map(add, opened))
    described.perf_cpus, described.perf_bytes = tuple(cpus), size


def _events(cpus: list[int], size: int) -> tuple[list[int], bool]:
    """One event per CPU that a program's output goes to, not enabled; whether the kernel counts what is
    lost."""

    def opened(read_format: int) -> list[int]:
        attributes = struct.pack(
            _ATTRIBUTES,
            *(_SOFTWARE, _ATTRIBUTES_SIZE, _BPF_OUTPUT, 1, _RAW, read_format, _WATERMARK),
            *(size // 2, 0, 0),
        ).ljust(_ATTRIBUTES_SIZE, b"\0")
        made: list[int] = []
        try:
            for cpu in cpus:
                made.append(open_perf_event(attributes, cpu))
        except OSError:
            for one in made:
                os.close(one)
            raise
        return made

    try:
        return opened(_READ_LOST), True
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return opened(0), False  # before Linux 6.0


_mappings: list[mmap.mmap] = []
"""Rings live as long as somebody has them mapped: the supervisor maps them before we end."""


def _mapped(events: list[int], size: int) -> bool:
    """Map every ring; False where the kernel refuses this size, and a smaller one may do."""
    _mappings.clear()
    for event in events:
        try:
            _mappings.append(mmap.mmap(event, mmap.PAGESIZE + size, mmap.MAP_SHARED))
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOMEM) or size <= mmap.PAGESIZE:
                raise
            return False
    return True


def _put(fd: int, cpu: int, event: int) -> None:
    key, value = ctypes.c_uint32(cpu), ctypes.c_uint32(event)
    kernel.update(fd, ctypes.addressof(key), ctypes.addressof(value))

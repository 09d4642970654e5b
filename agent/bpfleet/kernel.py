"""The bpf(2) system call, for processes that hold fds: read a map, run a program, ask what an fd is.

No libbpf: the worker stays small, and needs no right but the fds themselves (Linux 6.0 and later).
Layouts of `union bpf_attr` are from the kernel's `include/uapi/linux/bpf.h`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

__all__ = [
    "F_LOCK",
    "MAP_TYPES",
    "NESTING_TYPES",
    "MapInfo",
    "batch",
    "boottime_ns",
    "bpf_call",
    "create_map",
    "delete",
    "is_locked",
    "link_create",
    "lookup",
    "map_by_id",
    "map_info",
    "next_key",
    "pop",
    "possible_cpus",
    "program_by_id",
    "program_maps",
    "read_iterator",
    "run_iterator",
    "run_program",
    "update",
]

_NR_BPF = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "ppc64le": 361, "s390x": 351}
_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long
_syscall.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_long]

_MAP_CREATE, _MAP_LOOKUP_ELEM, _MAP_UPDATE_ELEM, _MAP_DELETE_ELEM, _MAP_GET_NEXT_KEY = 0, 1, 2, 3, 4
_PROG_TEST_RUN, _OBJ_GET_INFO_BY_FD, _MAP_LOOKUP_BATCH, _LINK_CREATE = 10, 15, 24, 28
_PROG_GET_FD_BY_ID, _MAP_GET_FD_BY_ID, _MAP_LOOKUP_AND_DELETE_ELEM, _ITER_CREATE = 13, 14, 21, 33
_MOST_PROGRAM_MAPS = 64  # MAX_USED_MAPS

F_LOCK = 4
"""Flag of lookups and updates: under the value's own lock."""

MAP_TYPES = tuple(
    """
    unspec hash array prog_array perf_event_array percpu_hash percpu_array stack_trace cgroup_array
    lru_hash lru_percpu_hash lpm_trie array_of_maps hash_of_maps devmap sockmap cpumap xskmap sockhash
    cgroup_storage reuseport_sockarray percpu_cgroup_storage queue stack sk_storage devmap_hash
    struct_ops ringbuf inode_storage task_storage bloom_filter user_ringbuf cgrp_storage arena
    """.split()  # noqa: SIM905 - a list of forty strings is no easier to read
)
"""Names of `enum bpf_map_type`, by number."""


NESTING_TYPES = ("array_of_maps", "hash_of_maps")
"""Kinds whose values are ids of other maps."""


@cache
def _number() -> int:
    machine = platform.machine()
    if machine not in _NR_BPF:
        raise OSError(errno.ENOSYS, f"the number of bpf(2) on {machine} is not known")
    return _NR_BPF[machine]


def bpf_call(command: int, attributes: ctypes.Array[ctypes.c_char]) -> int:
    """bpf(2) with a `union bpf_attr` as bytes; returns what it returns, raises OSError where it refuses."""
    result: int = _syscall(_number(), command, ctypes.addressof(attributes), len(attributes))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _attributes(form: str, *values: int) -> ctypes.Array[ctypes.c_char]:
    packed = struct.pack(form, *values)
    return ctypes.create_string_buffer(packed, len(packed))


@dataclass(frozen=True, slots=True)
class MapInfo:
    """What the kernel says of a map: its `enum bpf_map_type`, sizes in bytes, name."""

    type: int
    id: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int
    name: str

    @property
    def type_name(self) -> str:
        """Such as `percpu_hash`."""
        return MAP_TYPES[self.type] if self.type < len(MAP_TYPES) else f"type {self.type}"

    @property
    def per_cpu(self) -> bool:
        """Whether each CPU has a value of its own."""
        return self.type in (5, 6, 10, 21)


def create_map(kind: int, key_size: int, value_size: int, max_entries: int, flags: int = 0) -> int:
    """Make a map; returns its fd. (Collectors' maps are made by their loader; this is for tests and
    probes.)"""
    return bpf_call(_MAP_CREATE, _attributes("=5I52x", kind, key_size, value_size, max_entries, flags))


def map_by_id(number: int) -> int:
    """A new fd of the map of that id; takes CAP_SYS_ADMIN."""
    return bpf_call(_MAP_GET_FD_BY_ID, _attributes("=III", number, 0, 0))


def program_by_id(number: int) -> int:
    """A new fd of the program of that id; takes CAP_SYS_ADMIN."""
    return bpf_call(_PROG_GET_FD_BY_ID, _attributes("=III", number, 0, 0))


def program_maps(fd: int) -> list[int]:
    """Ids of the maps that a program uses, its sections of globals among them."""
    numbers = ctypes.create_string_buffer(4 * _MOST_PROGRAM_MAPS)
    # Before these two, struct bpf_prog_info has 52 bytes that are left out here.
    info = ctypes.create_string_buffer(
        struct.pack("=52xIQ16x", _MOST_PROGRAM_MAPS, ctypes.addressof(numbers)), 80
    )
    bpf_call(_OBJ_GET_INFO_BY_FD, _attributes("=IIQ", fd, len(info), ctypes.addressof(info)))
    count: int = struct.unpack_from("=I", info.raw, 52)[0]
    return list(struct.unpack_from(f"={min(count, _MOST_PROGRAM_MAPS)}I", numbers.raw))


def map_info(fd: int) -> MapInfo:
    """Ask the kernel what map `fd` is."""
    info = ctypes.create_string_buffer(40)
    bpf_call(_OBJ_GET_INFO_BY_FD, _attributes("=IIQ", fd, len(info), ctypes.addressof(info)))
    kind, number, key, value, entries, flags, name = struct.unpack("=6I16s", info.raw)
    return MapInfo(kind, number, key, value, entries, flags, name.partition(b"\0")[0].decode())


def run_program(fd: int) -> int:
    """Run a `SEC("syscall")` program once; returns what it returned."""
    attributes = _attributes("=I76x", fd)
    bpf_call(_PROG_TEST_RUN, attributes)
    result: int = struct.unpack_from("=I", attributes.raw, 4)[0]
    return result


def run_iterator(link: int) -> None:
    """Run an attached `SEC("iter/…")` program over all its objects once; what it prints is thrown away."""
    for _ in _iterate(link):
        pass


def read_iterator(link: int, most: int) -> tuple[bytes, int]:
    """The same, and what it wrote: of more than `most` bytes the first; and how many there were."""
    pieces: list[bytes] = []
    size = 0
    for piece in _iterate(link):
        if size < most:
            pieces.append(piece)
        size += len(piece)
    return b"".join(pieces)[:most], size


def _iterate(link: int) -> Iterator[bytes]:
    iterator = bpf_call(_ITER_CREATE, _attributes("=II", link, 0))
    try:
        # Each read goes on until the program has printed a buffer full, or the objects are at their end.
        while piece := os.read(iterator, 1 << 16):
            yield piece
    finally:
        os.close(iterator)


def link_create(program: int, target: int, attach_type: int) -> int:
    """Attach `program` at `target` (an interface's index, say); returns the fd of the link."""
    return bpf_call(_LINK_CREATE, _attributes("=IIII48x", program, target, attach_type, 0))


def lookup(fd: int, key: int, value: int, flags: int = 0) -> bool:
    """Copy the value at address `key` to address `value`; False where the key is absent."""
    try:
        bpf_call(_MAP_LOOKUP_ELEM, _attributes("=I4xQQQ", fd, key, value, flags))
    except OSError as error:
        if error.errno == errno.ENOENT:
            return False
        raise
    return True


def is_locked(fd: int, info: MapInfo) -> bool:
    """Whether the map's values hold a `bpf_spin_lock`: other maps refuse a locked lookup, of any key."""
    if info.per_cpu:  # no locks there, and a value for each CPU
        return False
    key, value = (ctypes.create_string_buffer(size) for size in (info.key_size, info.value_size))
    try:
        lookup(fd, ctypes.addressof(key), ctypes.addressof(value), F_LOCK)
    except OSError as error:
        if error.errno == errno.EINVAL:
            return False
        raise
    return True


def update(fd: int, key: int, value: int, flags: int = 0) -> None:
    """Set the value of the key at address `key` to what is at address `value`."""
    bpf_call(_MAP_UPDATE_ELEM, _attributes("=I4xQQQ", fd, key, value, flags))


def delete(fd: int, key: int) -> None:
    """Delete the key at address `key`."""
    bpf_call(_MAP_DELETE_ELEM, _attributes("=I4xQQQ", fd, key, 0, 0))


def pop(fd: int, value: int) -> bool:
    """Take a value out of a queue or stack, to address `value`; False where it is empty."""
    try:
        bpf_call(_MAP_LOOKUP_AND_DELETE_ELEM, _attributes("=I4xQQQ", fd, 0, value, 0))
    except OSError as error:
        if error.errno == errno.ENOENT:
            return False
        raise
    return True


def next_key(fd: int, key: int, following: int) -> bool:
    """Copy the key after the one at address `key` (0: the first) to address `following`; False at the end."""
    try:
        bpf_call(_MAP_GET_NEXT_KEY, _attributes("=I4xQQQ", fd, key, following, 0))
    except OSError as error:
        if error.errno == errno.ENOENT:
            return False
        raise
    return True


def batch(
    fd: int, cursor: int, following: int, keys: int, values: int, count: int, flags: int = 0
) -> tuple[int, int]:
    """Look up to `count` entries up from the cursor at address `cursor` (0: from the start).

    Returns (entries copied, errno): 0 where there is more, ENOENT at the end, ENOSPC where `count` is
    smaller than what one bucket holds (nothing was copied then).
    """
    attributes = _attributes("=QQQQIIQQ", cursor, following, keys, values, count, fd, flags, 0)
    try:
        bpf_call(_MAP_LOOKUP_BATCH, attributes)
        code = 0
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOSPC):
            raise
        code = error.errno or 0
    copied: int = struct.unpack_from("=I", attributes.raw, 32)[0]
    return copied, code


@cache
def possible_cpus() -> int:
    """CPUs that per-CPU maps have values for (`/sys/devices/system/cpu/possible`)."""
    with open("/sys/devices/system/cpu/possible") as file:
        return int(file.read().strip().rpartition("-")[2].rpartition(",")[2]) + 1


def boottime_ns() -> int:
    """CLOCK_BOOTTIME in ns."""
    import time

    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)

"""Maps made for tests through bpf(2), and readers over them."""

from __future__ import annotations

import ctypes
import os
import re
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bpfleet import kernel
from bpfleet.layout import Layout, declared
from bpfleet.loader.snapshot_program import load_walker
from bpfleet.reading.ladder import MapReader, WalkFds
from bpfleet.schema import Field

TYPES = {name: number for number, name in enumerate(kernel.MAP_TYPES)}
NO_PREALLOC, MMAPABLE = 1, 1 << 10


@dataclass
class TestMap:
    """A map and the layouts of its key and value."""

    __test__ = False

    fd: int
    type: str
    key: Layout
    value: Layout
    entries: int
    walker_fds: list[int] = field(default_factory=list)

    @property
    def per_cpu(self) -> bool:
        return kernel.map_info(self.fd).per_cpu

    def put(self, key: bytes, value: bytes | Sequence[bytes]) -> None:
        """Set one entry; for a per-CPU map give one value per CPU."""
        if not isinstance(value, bytes):
            value = b"".join(one.ljust(-(-self.value.size // 8) * 8, b"\0") for one in value)
        kernel.update(self.fd, *(_address(part) for part in (_keep(key), _keep(value))))

    def delete(self, key: bytes) -> None:
        kernel.delete(self.fd, _address(_keep(key)))

    def reader(self, method: str, *, capacity: int | None = None, **settings: Any) -> MapReader:
        """A reader that may use only `method`; `capacity` is the row buffer's, in rows."""
        walk = None
        if method == "walk":
            info = kernel.map_info(self.fd)
            made = load_walker(self.fd, info, self.value, capacity or self.entries)
            walk = WalkFds(made.program, made.rows, made.counters, made.capacity)
            self.walker_fds += [made.program, made.rows, made.counters]
        return MapReader(self.fd, self.key, self.value, walk=walk, allowed=[method], **settings)


@contextmanager
def new_map(
    kind: str,
    key: Sequence[Field],
    value: Sequence[Field],
    entries: int,
    *,
    flags: int = 0,
    packed: bool = False,
) -> Iterator[TestMap]:
    """A new map; its fds are closed at the end."""
    key_layout, value_layout = declared(key, packed=packed), declared(value, packed=packed)
    fd = kernel.create_map(TYPES[kind], key_layout.size, value_layout.size, entries, flags)
    made = TestMap(fd, kind, key_layout, value_layout, entries)
    try:
        yield made
    finally:
        for opened in (fd, *made.walker_fds):
            os.close(opened)


def rows(reader: MapReader) -> list[tuple[Any, ...]]:
    """One read as sorted rows of plain values."""
    read = reader.read()
    assert read.complete
    columns = [column.tolist() for column in read.columns]
    return sorted(tuple(map(_plain, row)) for row in zip(*columns, strict=True))


def u32(number: int) -> bytes:
    return struct.pack("<I", number)


def u64(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}Q", *numbers)


_kept: list[ctypes.Array[ctypes.c_char]] = []


def _keep(data: bytes) -> ctypes.Array[ctypes.c_char]:
    """A buffer that lives as long as the system call that reads it."""
    _kept[:] = _kept[-8:]
    _kept.append(ctypes.create_string_buffer(data, len(data)))
    return _kept[-1]


def _address(buffer: ctypes.Array[ctypes.c_char]) -> int:
    return ctypes.addressof(buffer)


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def ones(size: int) -> bytes:
    return np.ones(size, np.uint8).tobytes()


def open_map(name: str, owner: int) -> int:
    """An fd of the map called `name` that process `owner` holds."""
    for info in Path(f"/proc/{owner}/fdinfo").iterdir():
        found = re.search(r"^map_id:\s*(\d+)", info.read_text(), re.MULTILINE)
        if found:
            attributes = ctypes.create_string_buffer(struct.pack("=IIII", int(found.group(1)), 0, 0, 0), 16)
            fd = kernel.bpf_call(14, attributes)  # BPF_MAP_GET_FD_BY_ID
            if kernel.map_info(fd).name == name:
                return fd
            os.close(fd)
    raise LookupError(name)


def put_many(fd: int, count: int, value_size: int) -> None:
    """Set keys 0 to `count` - 1 (u32) to value 1, by BPF_MAP_UPDATE_BATCH."""
    keys = np.arange(count, dtype="<u4")
    values = np.zeros((count, value_size), np.uint8)
    values[:, 0] = 1
    attributes = struct.pack("=QQQQIIQQ", 0, 0, keys.ctypes.data, values.ctypes.data, count, fd, 0, 0)
    kernel.bpf_call(26, ctypes.create_string_buffer(attributes, len(attributes)))

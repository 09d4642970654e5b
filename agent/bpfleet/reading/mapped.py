"""mmap: an array made with BPF_F_MMAPABLE, or a section of globals, lies in our memory already."""

from __future__ import annotations

import mmap

import numpy as np

from bpfleet.layout import Layout
from bpfleet.reading.columns import Bytes, Read, views

__all__ = ["MappedArray", "map_memory"]


def map_memory(fd: int, size: int) -> Bytes:
    """The first `size` bytes of an mmapable map, read-only; OSError where the kernel refuses."""
    pages = mmap.mmap(fd, -(-size // mmap.PAGESIZE) * mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ)
    return np.frombuffer(pages, np.uint8, size)


class MappedArray:
    """Reads an mmapable array; the columns are the live memory, so they change while they are looked at."""

    method = "mmap"

    def __init__(self, fd: int, key: Layout, value: Layout, value_size: int, max_entries: int) -> None:
        self._stride = -(-value_size // 8) * 8
        self._memory = map_memory(fd, self._stride * max_entries)
        self._rows = max_entries
        index = np.arange(max_entries, dtype="<u4").view(np.uint8)
        self._columns = [
            *views(index, 0, 4, max_entries, key),
            *views(self._memory, 0, self._stride, max_entries, value),
        ]

    def read(self) -> Read:
        """Every element."""
        return Read(self.method, self._rows, self._rows, self._columns)

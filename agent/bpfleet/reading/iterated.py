"""iter: an iterator of our own goes through local storage, and writes a row for each owner with a value."""

from __future__ import annotations

import numpy as np

from bpfleet import kernel
from bpfleet.layout import Layout
from bpfleet.reading.columns import Read, views

__all__ = ["IteratedMap"]


class IteratedMap:
    """Reads local storage; `link` is the iterator's, `key` what it writes before each value."""

    method = "iter"
    wanted_rows = 0
    memory_bytes = 0
    max_entries = 0
    """There is room for as many as there are owners."""

    def __init__(self, fd: int, link: int, key: Layout, value: Layout, *, most_bytes: int = 64 << 20) -> None:
        self.info = kernel.map_info(fd)
        why = "local storage has no keys to go through"
        self.why_not = dict.fromkeys(("mmap", "walk", "batch", "key"), why)
        self._link, self._key, self._value, self._most_bytes = link, key, value, most_bytes

    def read(self) -> Read:
        """A row of each owner with a value; those beyond the memory limit are counted and have no rows."""
        stride = self._key.size + self.info.value_size
        data, size = kernel.read_iterator(self._link, self._most_bytes)
        rows, entries = len(data) // stride, size // stride
        buffer = np.frombuffer(data, np.uint8)
        columns = [
            *views(buffer, 0, stride, rows, self._key),
            *views(buffer, self._key.size, stride, rows, self._value),
        ]
        return Read(self.method, rows, entries, columns, complete=rows == entries)

"""Counts that a program keeps for the agent in an array map, and what is made of them."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

import numpy as np

from bpfleet import kernel
from bpfleet.reading.columns import Read
from bpfleet.reading.mapped import map_memory

__all__ = ["Counter", "Evictions"]


class Counter:
    """A u64 in an array map's first element."""

    def __init__(self, fd: int, offset: int) -> None:
        self._fd, self._offset = fd, offset
        info = kernel.map_info(fd)
        self._memory = (
            map_memory(fd, info.value_size) if info.flags & 1 << 10 else np.zeros(info.value_size, np.uint8)
        )
        self._mapped = bool(info.flags & 1 << 10)
        self._zero = np.zeros(4, np.uint8)

    @staticmethod
    def of(there: tuple[int, int], fds: Sequence[int]) -> Counter:
        """The one that the loader has found: an array's fd, and where in its first element."""
        return Counter(fds[there[0]], there[1])

    def value(self) -> int:
        """The count now."""
        if not self._mapped:
            kernel.lookup(self._fd, self._zero.ctypes.data, self._memory.ctypes.data)
        number: int = struct.unpack_from("<Q", self._memory.data, self._offset)[0]
        return number


class Evictions:
    """Entries that an LRU map has thrown out since the program was loaded: keys that were new to it, by the
    program's count, less those that are there."""

    def __init__(self, new_keys: Counter) -> None:
        self._new_keys = new_keys
        self.count: int | None = None
        """None until a read has met all entries. It never goes down."""

    def read(self, read: Callable[[], Read]) -> Read:
        """One read of the map, and the count from it.

        A key that comes while the map is read may be met and not counted yet, or throw out another before
        that one is met. So all keys that came meanwhile are taken off: rather too few than one too many."""
        before = self._new_keys.value()
        found = read()
        meanwhile = self._new_keys.value() - before
        if found.complete or found.entries > found.rows:
            self.count = max(self.count or 0, before - found.entries - meanwhile)
        return found

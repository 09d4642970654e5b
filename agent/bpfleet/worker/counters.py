"""Counts that a program keeps for the agent in an array map: inserts that the kernel refused."""

from __future__ import annotations

import struct

import numpy as np

from bpfleet import kernel
from bpfleet.reading.mapped import map_memory

__all__ = ["Counter"]


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

    def value(self) -> int:
        """The count now."""
        if not self._mapped:
            kernel.lookup(self._fd, self._zero.ctypes.data, self._memory.ctypes.data)
        number: int = struct.unpack_from("<Q", self._memory.data, self._offset)[0]
        return number

"""Queues and stacks: values are popped inside the kernel, thousands in one call, by the drain program
(method `drain`); where a kernel lacks it, one by one (method `pop`)."""

from __future__ import annotations

import numpy as np

from bpfleet import kernel
from bpfleet.draining.copying import Copier
from bpfleet.events import padded
from bpfleet.reading.columns import Array, Bytes
from bpfleet.reading.mapped import map_memory

__all__ = ["PopByOne", "PopByProgram"]


class PopByProgram:
    """Pops `capacity` values a run at most; `rows` is the program's mapped array, `counters` its globals."""

    method = "drain"
    wakes_half_full = False
    wakes: tuple[int, ...] = ()

    def __init__(
        self, info: kernel.MapInfo, program: int, rows: int, counters: int, *, rows_a_run: int
    ) -> None:
        self._program, self._rows_a_run, self._size = program, rows_a_run, info.value_size
        self._words = padded(info.value_size) // 8
        self._memory: Array = map_memory(rows, rows_a_run * self._words * 8).view("<u8")
        self._counters: Array = map_memory(counters, 16).view("<u8")
        self.capacity = info.max_entries

    @property
    def total(self) -> int:
        """Values that the program has taken since it was loaded."""
        return int(self._counters[1])

    def losses(self) -> dict[str, int]:
        """None: the kernel does not count what a full queue refuses."""
        return {}

    def drain(self, copier: Copier) -> float:
        """Take what is there, at most as many values as the map can hold."""
        taken = 0
        while taken < self.capacity:
            kernel.run_program(self._program)
            popped = int(self._counters[0])
            if popped:
                copier.run(self._memory, 0, self._words, popped, self._size)
                copier.leaving()
            taken += popped
            if popped < self._rows_a_run:
                break
        return min(1.0, taken / self.capacity)


class PopByOne:
    """Pops by one system call for each value."""

    method = "pop"
    wakes_half_full = False
    wakes: tuple[int, ...] = ()

    def __init__(self, fd: int, info: kernel.MapInfo) -> None:
        self._fd, self._size = fd, info.value_size
        self._stride = padded(info.value_size)
        self._memory: Bytes = np.zeros(min(info.max_entries, 4096) * self._stride, np.uint8)
        self.capacity = info.max_entries

    def losses(self) -> dict[str, int]:
        """None: the kernel does not count what a full queue refuses."""
        return {}

    def drain(self, copier: Copier) -> float:
        """Take what is there, at most as many values as the map can hold."""
        taken, room = 0, len(self._memory) // self._stride
        while taken < self.capacity:
            popped = 0
            while popped < room and kernel.pop(self._fd, self._memory.ctypes.data + popped * self._stride):
                popped += 1
            if popped:
                copier.run(self._memory.view("<u8"), 0, self._stride // 8, popped, self._size)
                copier.leaving()
            taken += popped
            if popped < room:
                break
        return min(1.0, taken / self.capacity)

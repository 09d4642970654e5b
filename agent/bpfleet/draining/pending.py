"""Rows that were taken out of a map and wait for its next snapshot: one buffer, within a bound.

A row is what we say of an event (16 bytes: its number, u64; the CPU, u32; its size, u32), then the event's
bytes, padded to 8.
"""

from __future__ import annotations

import numpy as np

from bpfleet.events import OURS, padded
from bpfleet.layout import Layout
from bpfleet.reading.columns import Array, Bytes, views

__all__ = ["Pending"]

_FIRST_ROWS = 64


class Pending:
    """Rows for `event` layouts after `ours`; memory grows up to `most_bytes`."""

    def __init__(self, ours: Layout, event: Layout, most_bytes: int) -> None:
        self._ours, self._event = ours, event
        self._stride = OURS + padded(event.size)
        self._most = max(1, most_bytes // self._stride)
        self._memory: Bytes = np.empty(0, np.uint8)
        self._room = 0
        self.rows = 0
        self._given = False

    @property
    def memory_bytes(self) -> int:
        """Bytes of the buffer."""
        return self._memory.nbytes

    def room_for(self, wanted: int) -> int:
        """Make room for `wanted` rows behind those that are there; returns how many there is room for."""
        if self._given:
            # What the last snapshot was made of has been encoded.
            self.rows, self._given = 0, False
        wanted = min(self.rows + wanted, self._most)
        if wanted > self._room:
            room = min(self._most, max(_FIRST_ROWS, wanted, self._room * 2))
            memory = np.empty(room * self._stride, np.uint8)
            memory[: self.rows * self._stride] = self._memory[: self.rows * self._stride]
            self._memory, self._room = memory, room
        return wanted - self.rows

    def add(self, count: int, first: int, cpu: int, size: int | Array) -> Array:
        """`count` new rows, numbered from `first`: their events' bytes (count, padded size), to be filled in.

        There must be room (`room_for`).
        """
        at = self.rows * self._stride
        self.rows += count
        rows = self._memory[at : at + count * self._stride].reshape(count, self._stride)
        rows[:, :8].view("<u8")[:, 0] = np.arange(first, first + count, dtype=np.uint64)
        said = rows[:, 8:OURS].view("<u4")
        said[:, 0], said[:, 1] = cpu, size
        return rows[:, OURS:]

    def take(self) -> tuple[int, list[Array]]:
        """All rows, as columns: valid until `room_for` is called again."""
        if self._given:
            self.rows = 0
        self._given = True
        columns = [
            *views(self._memory, 0, self._stride, self.rows, self._ours),
            *views(self._memory, OURS, self._stride, self.rows, self._event),
        ]
        return self.rows, columns

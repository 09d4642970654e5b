"""walk: the snapshot program writes the map's rows into memory that we have mapped; one system call."""

from __future__ import annotations

import time

from bpfleet.kernel import run_program
from bpfleet.layout import Layout
from bpfleet.reading.columns import Array, Bytes, Read, views
from bpfleet.reading.mapped import map_memory

__all__ = ["Walk"]


class Walk:
    """Reads a map through its snapshot program. A row is the key padded to 8 bytes, then the value
    padded to 8."""

    method = "walk"

    def __init__(
        self, program: int, rows: int, counters: int, *, capacity: int, key: Layout, value: Layout
    ) -> None:
        self._program = program
        self._value_at = -(-key.size // 8) * 8
        self._row_size = self._value_at + -(-value.size // 8) * 8
        self._memory: Bytes = map_memory(rows, capacity * self._row_size)
        self._counters: Array = map_memory(counters, 16).view("<u8")
        self._key, self._value = key, value
        self.capacity = capacity
        self.seconds = 0.0
        """CPU time that the last walk took."""

    @property
    def memory_bytes(self) -> int:
        """Bytes of the row buffer."""
        return self._memory.nbytes

    def read(self) -> Read:
        """One walk; `entries` beyond `capacity` have no rows."""
        # CPU time, not wall time: being preempted is not the walk's doing.
        began = time.thread_time()
        run_program(self._program)
        self.seconds = time.thread_time() - began
        seen, written = (int(number) for number in self._counters[:2])
        columns = [
            *views(self._memory, 0, self._row_size, written, self._key),
            *views(self._memory, self._value_at, self._row_size, written, self._value),
        ]
        return Read(self.method, written, seen, columns, complete=written == seen)

"""batch: BPF_MAP_LOOKUP_BATCH in chunks, each short in the kernel; grows when a bucket does not fit.

The kernel visits each bucket once, under its lock, so an entry that stays is met exactly once.
"""

from __future__ import annotations

import errno

import numpy as np

from bpfleet import kernel
from bpfleet.layout import Layout
from bpfleet.reading.columns import Array, Bytes, Read, views
from bpfleet.reading.folding import fold

__all__ = ["Batch"]

_CHUNK = 16384


class Batch:
    """Reads a hash or array map by batch lookups into buffers that are kept and grown."""

    method = "batch"

    def __init__(
        self, fd: int, info: kernel.MapInfo, key: Layout, value: Layout, *, most_bytes: int, flags: int = 0
    ) -> None:
        self._fd, self._key, self._value, self._flags = fd, key, value, flags
        self._key_size = info.key_size
        self._cpus = kernel.possible_cpus() if info.per_cpu else 1
        # The kernel pads each CPU's value to 8 bytes, and does not pad where there is but one.
        self._cpu_stride = -(-info.value_size // 8) * 8 if info.per_cpu else info.value_size
        self._value_size = self._cpu_stride * self._cpus
        self._most = max(1024, most_bytes // (self._key_size + self._value_size))
        self._cursors = np.zeros((2, max(8, self._key_size)), np.uint8)
        self._rows = 0
        self._keys: Bytes = np.empty(0, np.uint8)
        self._values: Bytes = np.empty(0, np.uint8)
        self._reserve(min(info.max_entries, 1024))

    @property
    def memory_bytes(self) -> int:
        """Bytes of the buffers."""
        return self._keys.nbytes + self._values.nbytes

    def _reserve(self, rows: int) -> None:
        """Room for `rows` rows; what is there stays."""
        keys = np.empty(rows * self._key_size, np.uint8)
        values = np.empty(rows * self._value_size, np.uint8)
        keys[: self._keys.nbytes] = self._keys
        values[: self._values.nbytes] = self._values
        self._keys, self._values, self._rows = keys, values, rows

    def read(self) -> Read:
        """All entries; those beyond the memory limit are counted and have no rows."""
        rows = met = 0
        cursor, following = (self._cursors[i].ctypes.data for i in (0, 1))
        first = True
        while True:
            count = min(_CHUNK, self._rows - rows)
            if count == 0:
                rows = self._make_room(rows)
                continue
            copied, code = kernel.batch(
                self._fd,
                0 if first else cursor,
                following,
                self._keys.ctypes.data + rows * self._key_size,
                self._values.ctypes.data + rows * self._value_size,
                count,
                self._flags,
            )
            if code == errno.ENOSPC:
                # A bucket holds more than there is room for; the cursor has not moved.
                rows = self._make_room(rows)
                continue
            rows, met, first = rows + copied, met + copied, False
            if code == errno.ENOENT:
                return Read(self.method, rows, met, self._columns(rows), complete=rows == met)
            cursor, following = following, cursor

    def _make_room(self, rows: int) -> int:
        """Room behind `rows` rows; at the limit, over the last chunk, to learn how many entries there are."""
        if self._rows >= self._most and rows:
            return rows - min(rows, _CHUNK)
        # Only a bucket that is larger than all that is allowed goes beyond the limit.
        self._reserve(self._rows * 2 if self._rows >= self._most else min(self._most, self._rows * 2))
        return rows

    def _columns(self, rows: int) -> list[Array]:
        values: Bytes = self._values
        stride = self._value_size
        if self._cpus > 1:
            values = fold(values[: rows * stride].reshape(rows, self._cpus, self._cpu_stride), self._value)
            stride = values.shape[1]
            values = values.reshape(-1)
        return [
            *views(self._keys, 0, self._key_size, rows, self._key),
            *views(values, 0, stride, rows, self._value),
        ]

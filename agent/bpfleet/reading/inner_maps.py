"""Maps of maps: the rows of all inner maps, each with the outer key in front.

The outer map's values are ids. Opening a map by its id takes more rights than reading one, so `fetch` asks
whoever has them; what was opened is kept while the outer map has it. Inner maps come and go meanwhile.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from bpfleet import kernel
from bpfleet.layout import Layout
from bpfleet.reading.batch import Batch
from bpfleet.reading.bykey import ByKey
from bpfleet.reading.columns import Array, Read, views

__all__ = ["Fetch", "InnerMaps"]

_BATCH_TYPES = ("hash", "lru_hash", "array", "percpu_hash", "lru_percpu_hash", "percpu_array")

Fetch = Callable[[list[int]], Mapping[int, int]]
"""From ids of inner maps to fds of them, which the caller owns; one that has gone is left out."""


@dataclass(frozen=True, slots=True)
class _Inner:
    fd: int
    max_entries: int
    reader: Batch | ByKey


class InnerMaps:
    """Reads a map of maps. A row begins with the outer key's columns (`outer`); `key` is the inner one's."""

    method = "key"
    wanted_rows = 0

    def __init__(
        self, fd: int, outer: Layout, key: Layout, value: Layout, *, most_bytes: int = 64 << 20
    ) -> None:
        self.info = kernel.map_info(fd)
        self.why_not: dict[str, str] = {}
        self._fd, self._outer, self._key, self._value = fd, outer, key, value
        self._most_bytes = most_bytes
        self.fetch: Fetch = lambda ids: {}
        """Opens inner maps; set by whoever can."""
        self._inner: dict[int, _Inner] = {}

    @property
    def max_entries(self) -> int:
        """Of all inner maps together."""
        return sum(one.max_entries for one in self._inner.values())

    @property
    def memory_bytes(self) -> int:
        """Bytes of the buffers that reading costs."""
        return sum(one.reader.memory_bytes for one in self._inner.values() if isinstance(one.reader, Batch))

    def read(self) -> Read:
        """All rows; not complete where an inner map could not be opened in time. A map that was taken out
        meanwhile is left out."""
        there = self._outer_rows()
        self._follow({number for _, number in there})
        parts: list[list[Array]] = [self._empty()]
        rows = entries = 0
        complete = True
        for outer_key, number in there:
            inner = self._inner.get(number)
            if inner is None:
                complete = False
                continue
            read = inner.reader.read()
            front = views(np.frombuffer(outer_key, np.uint8), 0, len(outer_key), 1, self._outer)
            # Copied: one inner map may stand at several keys, and its reader has but one buffer.
            parts.append(
                [*(np.repeat(one, read.rows, axis=0) for one in front), *(one.copy() for one in read.columns)]
            )
            rows, entries, complete = rows + read.rows, entries + read.entries, complete and read.complete
        columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
        return Read(self.method, rows, entries, columns, complete)

    def close(self) -> None:
        """Let go of the inner maps."""
        self._follow(set())

    def _outer_rows(self) -> list[tuple[bytes, int]]:
        """(outer key, id of the inner map) of each entry."""
        found: dict[bytes, int] = {}
        here, following = (np.zeros(self.info.key_size, np.uint8) for _ in range(2))
        value = np.zeros(1, "<u4")
        more = kernel.next_key(self._fd, 0, following.ctypes.data)
        # A bound: where keys come and go, the kernel starts over.
        for _ in range(2 * self.info.max_entries + 64):
            if not more:
                break
            here, following = following, here
            if kernel.lookup(self._fd, here.ctypes.data, value.ctypes.data):
                found[here.tobytes()] = int(value[0])
            more = kernel.next_key(self._fd, here.ctypes.data, following.ctypes.data)
        return list(found.items())

    def _follow(self, numbers: Iterable[int]) -> None:
        """Open what is new, close what has gone."""
        wanted = set(numbers)
        for number in self._inner.keys() - wanted:
            os.close(self._inner.pop(number).fd)
        new = sorted(wanted - self._inner.keys())
        if not new:
            return
        for number, fd in self.fetch(new).items():
            info = kernel.map_info(fd)
            if number not in wanted or number in self._inner or not self._fits(info):
                os.close(fd)
                continue
            self._inner[number] = _Inner(fd, info.max_entries, self._reader(fd, info))

    def _fits(self, info: kernel.MapInfo) -> bool:
        return (info.key_size, info.value_size) == (self._key.size, self._value.size)

    def _reader(self, fd: int, info: kernel.MapInfo) -> Batch | ByKey:
        flags = kernel.F_LOCK if kernel.is_locked(fd, info) else 0
        if info.type_name in _BATCH_TYPES:
            made = Batch(fd, info, self._key, self._value, most_bytes=self._most_bytes, flags=flags)
            try:
                made.read()
            except OSError:
                pass  # before Linux 5.6 there are no batches
            else:
                return made
        return ByKey(fd, info, self._key, self._value, flags=flags)

    def _empty(self) -> list[Array]:
        """Columns of no rows: their types, where there is no inner map."""
        nothing = np.empty(0, np.uint8)
        return [
            one for layout in (self._outer, self._key, self._value) for one in views(nothing, 0, 0, 0, layout)
        ]

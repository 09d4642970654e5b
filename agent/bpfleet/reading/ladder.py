"""Which method reads a map: `mmap → walk → batch → key`, the first that is allowed and works.

Chosen once, when the map arrives. A walk gives way to `batch` for one read where its row buffer
turned out too small, and for as long as the map is so large that a walk would hold its CPU longer
than the limit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from bpfleet import kernel
from bpfleet.errors import ReadError
from bpfleet.layout import Layout
from bpfleet.reading.batch import Batch
from bpfleet.reading.bykey import ByKey
from bpfleet.reading.columns import Read
from bpfleet.reading.mapped import MappedArray
from bpfleet.reading.walk import Walk

__all__ = ["METHODS", "MapReader", "WalkFds"]

METHODS = ("mmap", "walk", "batch", "key")
_MMAPABLE = 1 << 10  # BPF_F_MMAPABLE
# The batches of others forget where they were when an entry goes; by key, repeats are told.
_BATCH_TYPES = {"hash", "lru_hash", "array", "percpu_hash", "lru_percpu_hash", "percpu_array"}


class _Method(Protocol):
    method: str

    def read(self) -> Read: ...


@dataclass(frozen=True, slots=True)
class WalkFds:
    """The snapshot program loaded for one map: fds of program, row buffer and counters, and rows of room."""

    program: int
    rows: int
    counters: int
    capacity: int


class MapReader:
    """Reads one map by the best method there is. `method` names it; `why_not` says why better ones
    are out."""

    def __init__(
        self,
        fd: int,
        key: Layout,
        value: Layout,
        *,
        walk: WalkFds | None = None,
        allowed: Sequence[str] = METHODS,
        walk_limit: float = 0.020,
        most_bytes: int = 64 << 20,
    ) -> None:
        self.info = kernel.map_info(fd)
        self._fd, self._key, self._value = fd, key, value
        self._walk_limit, self._most_bytes = walk_limit, most_bytes
        self._flags = kernel.F_LOCK if kernel.is_locked(fd, self.info) else 0
        self.why_not: dict[str, str] = {}
        self.wanted_rows = 0
        """Rows that a new row buffer should have room for; 0 where the present one will do."""
        self._walk: Walk | None = None
        self._batch: Batch | None = None
        self._slow_entries = 0
        self._best = self._choose(allowed, walk)

    @property
    def method(self) -> str:
        """The method chosen."""
        return self._best.method

    @property
    def max_entries(self) -> int:
        """Entries that the map has room for."""
        return self.info.max_entries

    @property
    def memory_bytes(self) -> int:
        """Bytes of the buffers that reading this map costs."""
        return sum(part.memory_bytes for part in (self._walk, self._batch) if part)

    def use_walker(self, walk: WalkFds) -> None:
        """Take a new row buffer and the program bound to it."""
        self._walk = Walk(
            walk.program, walk.rows, walk.counters, capacity=walk.capacity, key=self._key, value=self._value
        )
        self._best = self._walk
        self.wanted_rows = 0

    def read(self) -> Read:
        """One non-destructive read; OSError where the kernel refuses, which it does not once a read
        has worked."""
        if self._walk is None:
            return self._best.read()
        if self._slow_entries:
            read = self._by_batch()
            if read.entries < self._slow_entries // 2:
                self._slow_entries = 0
            return read
        read = self._walk.read()
        if self._walk.seconds > self._walk_limit:
            self._slow_entries = max(2, read.entries)
        if read.complete:
            return read
        self.wanted_rows = min(self.info.max_entries, read.entries * 2, self._most_rows())
        if self.wanted_rows <= self._walk.capacity:
            self.wanted_rows = 0
        return self._by_batch()

    def _most_rows(self) -> int:
        padded = -(-self.info.key_size // 8) * 8 + -(-self.info.value_size // 8) * 8
        return max(1, self._most_bytes // padded)

    def _by_batch(self) -> Read:
        if self._batch is None:
            self._batch = self._new_batch()
        return self._batch.read()

    def _new_batch(self) -> Batch:
        return Batch(
            self._fd,
            self.info,
            self._key,
            self._value,
            most_bytes=self._most_bytes,
            flags=self._flags,
        )

    def _choose(self, allowed: Sequence[str], walk: WalkFds | None) -> _Method:
        makers: dict[str, Callable[[], _Method | None]] = {
            "mmap": self._try_mmap,
            "walk": lambda: self._try_walk(walk),
            "batch": self._try_batch,
            "key": lambda: ByKey(self._fd, self.info, self._key, self._value, flags=self._flags),
        }
        for method in METHODS:
            if self._flags and method in ("mmap", "walk"):
                self.why_not[method] = "the values have a lock, under which only a lookup reads them"
                continue
            if method not in allowed:
                self.why_not[method] = "not allowed by the settings"
                continue
            try:
                made = makers[method]()
            except OSError as error:
                self.why_not[method] = f"the kernel refuses: {error.strerror}"
                continue
            if made is not None:
                return made
        raise ReadError(
            f"no way to read map {self.info.name!r} ({self.info.type_name}): "
            + "; ".join(f"{method}: {why}" for method, why in self.why_not.items()),
            remedy="allow another method in the collector's `read` setting",
        )

    def _try_mmap(self) -> _Method | None:
        if self.info.type_name != "array" or not self.info.flags & _MMAPABLE:
            self.why_not["mmap"] = "the map is not an mmapable array"
            return None
        return MappedArray(self._fd, self._key, self._value, self.info.value_size, self.info.max_entries)

    def _try_walk(self, walk: WalkFds | None) -> _Method | None:
        if walk is None:
            self.why_not["walk"] = "there is no snapshot program for it"
            return None
        self.use_walker(walk)
        assert self._walk is not None
        self._walk.read()
        return self._walk

    def _try_batch(self) -> _Method | None:
        if self.info.type_name not in _BATCH_TYPES:
            self.why_not["batch"] = f"maps of type {self.info.type_name} are read by key"
            return None
        batch = self._new_batch()
        batch.read()
        self._batch = batch
        return batch

"""Maps to read: made, filled in bulk, and the checksum by which readers prove that they read the same."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from bench.bpf import update_batch
from bpfleet import kernel
from bpfleet.layout import Layout, declared
from bpfleet.loader.snapshot_program import first_rows, load_walker
from bpfleet.reading.columns import Array
from bpfleet.reading.ladder import METHODS, MapReader, WalkFds
from bpfleet.schema import counter, label

__all__ = ["Digest", "FilledMap", "Shape", "digest", "filled"]

Digest = tuple[int, int]
"""(rows, checksum): the sum, modulo 2^64, of each row's hash, so order is no matter."""

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_ROW_BUFFER = 256 << 20
_FILLED_AT_ONCE = 1 << 18


@dataclass(frozen=True, slots=True)
class Shape:
    """A map's type, the bytes of its keys and values, and entries for each that is filled (`slack`).

    Values are u64 counters; keys of 4 and 8 bytes are numbers, others text.
    """

    type: str
    key_bytes: int
    value_bytes: int
    slack: float = 1.0

    @property
    def name(self) -> str:
        """Such as `hash 8/16`."""
        sparse = f", 1 of {self.slack:.0f} filled" if self.slack >= 2 else ""
        return f"{self.type.replace('_', ' ')} {self.key_bytes}/{self.value_bytes}{sparse}"

    @property
    def per_cpu(self) -> bool:
        """Whether each CPU has a value of its own."""
        return "percpu" in self.type

    def layouts(self) -> tuple[Layout, Layout]:
        """How key and value lie."""
        ctype = {4: "u32", 8: "u64"}.get(self.key_bytes, f"char[{self.key_bytes}]")
        values = [counter(f"n{number}") for number in range(self.value_bytes // 8)]
        return declared([label("key", ctype)]), declared(values)


@dataclass(frozen=True, slots=True)
class FilledMap:
    """A map of `shape` with `rows` entries in it."""

    fd: int
    id: int
    shape: Shape
    rows: int
    entries: int
    opened: set[int] = field(default_factory=set)
    """Fds of the snapshot programs loaded for it."""

    def reader(self, method: str) -> MapReader:
        """A reader that may use only `method`, however long a walk takes; `ladder`: as the agent reads it."""
        key, value = self.shape.layouts()
        if method not in ("ladder", "walk"):
            return MapReader(self.fd, key, value, allowed=[method], most_bytes=_ROW_BUFFER)
        info = kernel.map_info(self.fd)
        if method == "walk":
            walk = self._walker(value, self.entries)
            return MapReader(self.fd, key, value, walk=walk, allowed=["walk"], walk_limit=60.0)
        walk = self._walker(value, first_rows(info, _ROW_BUFFER))
        reader = MapReader(self.fd, key, value, walk=walk, allowed=METHODS, most_bytes=_ROW_BUFFER)
        for _ in range(8):  # the worker asks for a larger buffer in the same way
            reader.read()
            if not reader.wanted_rows:
                break
            reader.use_walker(self._walker(value, reader.wanted_rows))
        return reader

    def _walker(self, value: Layout, rows: int) -> WalkFds:
        # libbpf's object is not ours to close; its fds would keep the map alive.
        before = _open_fds()
        made = load_walker(self.fd, kernel.map_info(self.fd), value, rows)
        self.opened.update(_open_fds() - before)
        return WalkFds(made.program, made.rows, made.counters, made.capacity)


@contextmanager
def filled(shape: Shape, rows: int) -> Iterator[FilledMap]:
    """A new map with `rows` entries; it and what was loaded for it are closed at the end."""
    entries = rows if shape.type.endswith("array") else int(rows * shape.slack)
    kind = kernel.MAP_TYPES.index(shape.type)
    fd = kernel.create_map(kind, shape.key_bytes, shape.value_bytes, entries)
    made = FilledMap(fd, kernel.map_info(fd).id, shape, rows, entries)
    try:
        os.set_inheritable(fd, True)
        for start in range(0, rows, _FILLED_AT_ONCE):
            _fill(made, start, min(rows, start + _FILLED_AT_ONCE))
        # An LRU map may have thrown some out again.
        there = made.reader("batch").read()
        yield replace(made, rows=there.rows)
    finally:
        for opened in (fd, *made.opened):
            with suppress(OSError):
                os.close(opened)


def _open_fds() -> set[int]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            if os.readlink(f"/proc/self/fd/{name}").startswith("anon_inode:bpf"):
                found.add(int(name))
    return found


def _fill(made: FilledMap, start: int, stop: int) -> None:
    shape, count = made.shape, stop - start
    numbers = np.arange(start, stop, dtype=np.uint64)
    if shape.key_bytes == 4:
        keys = numbers.astype(np.uint32).view(np.uint8)
    elif shape.key_bytes == 8:
        keys = (numbers * _MULTIPLIER).view(np.uint8)
    else:
        text = np.char.add("/a/path/of/some/length/", numbers.astype(str))
        keys = text.astype(f"S{shape.key_bytes}").view(np.uint8)
    copies = kernel.possible_cpus() if shape.per_cpu else 1
    words = np.empty((count, copies, shape.value_bytes // 8), np.uint64)
    for copy in range(copies):
        for word in range(words.shape[2]):
            words[:, copy, word] = numbers * np.uint64(word + 3) + np.uint64(copy + 1)
    update_batch(made.fd, keys, words.reshape(-1).view(np.uint8), count)


def digest(columns: Sequence[Array]) -> Digest:
    """Of columns as our readers give them: a key's, then the counters."""
    rows = len(columns[0])
    words = [*_words(columns[0], rows), *(np.ascontiguousarray(column) for column in columns[1:])]
    hashes = np.zeros(rows, np.uint64)
    for word in words:
        hashes = (hashes ^ word.astype(np.uint64)) * _MULTIPLIER
        hashes ^= hashes >> np.uint64(32)
    return rows, int(hashes.sum(dtype=np.uint64))


def _words(key: Array, rows: int) -> Iterator[npt.NDArray[np.uint64]]:
    """A key's bytes as numbers of 8 bytes, zeros at the end."""
    size = key.dtype.itemsize
    padded = np.zeros((rows, -(-size // 8) * 8), np.uint8)
    padded[:, :size] = np.ascontiguousarray(key).view(np.uint8).reshape(rows, size)
    yield from padded.view(np.uint64).T

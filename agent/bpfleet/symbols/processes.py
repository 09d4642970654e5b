"""Which files processes have mapped to run, from the agent's own iterator.

By its link's fd the kernel tells what it would not let us read in /proc/PID/maps."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice

import numpy as np

from bpfleet import kernel

__all__ = ["MAPPING", "Mapping", "Processes"]

MAPPING = np.dtype(
    [
        ("process", "<u4"),
        ("pad", "<u4"),
        ("start", "<u8"),
        ("end", "<u8"),
        ("offset", "<u8"),
        ("inode", "<u8"),
        ("path", "S512"),
    ]
)
"""`struct mapping` of mappings.bpf.c."""
_AT_ONCE = 4096
_MOST_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class Mapping:
    """A part of a file that a process has in memory to run; `offset` is where it begins in the file."""

    start: int
    end: int
    offset: int
    inode: int
    path: str


class Processes:
    """Asks for the mappings of processes; `link` is the iterator's, `wanted` the map that it looks in."""

    def __init__(self, link: int, wanted: int) -> None:
        self._link, self._wanted = link, wanted

    def mappings(self, processes: Iterable[int]) -> dict[int, list[Mapping]]:
        """By process, by address. A process that has ended has none."""
        found: dict[int, list[Mapping]] = {}
        left = iter(processes)
        while some := list(islice(left, _AT_ONCE)):
            rows = self._rows(some)
            for row in rows[np.argsort(rows["start"], kind="stable")].tolist():
                process, _, start, end, offset, inode, path = row
                # What lies behind the NUL is of the path before.
                name = path.partition(b"\0")[0].decode("utf-8", "surrogateescape")
                mapping = Mapping(start, end, offset, inode, name)
                found.setdefault(process, []).append(mapping)
        return found

    def _rows(self, processes: list[int]) -> np.ndarray[tuple[int], np.dtype[np.void]]:
        keys = [ctypes.create_string_buffer(struct.pack("<I", one), 4) for one in processes]
        try:
            for key in keys:
                kernel.update(self._wanted, ctypes.addressof(key), ctypes.addressof(key))
            data, _ = kernel.read_iterator(self._link, _MOST_BYTES)
        finally:
            for key in keys:
                with suppress(FileNotFoundError):  # of one that there was no room for
                    kernel.delete(self._wanted, ctypes.addressof(key))
        return np.frombuffer(data, MAPPING, len(data) // MAPPING.itemsize)

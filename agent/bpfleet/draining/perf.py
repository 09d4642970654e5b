"""Perf event arrays: one ring for each CPU, which perf_event_open(2) describes.

Page 0 is the kernel's `struct perf_event_mmap_page`: data_head at 1024, which it moves, and data_tail at
1032, which is ours to move. Then the data, which wrap around. A record is a u32 type, u16 misc and u16
size; of type 9 a sample (a u32 size, then the bytes of the event, padded so that all of it is whole 8
bytes), of type 2 a count of lost ones (u64 id, u64 lost).
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from bpfleet.draining.book import Book
from bpfleet.draining.copying import Copier, fence
from bpfleet.draining.records import Run, Slots, Words, locate
from bpfleet.events import padded
from bpfleet.reading.columns import Array

__all__ = ["PerfRings"]

_HEAD, _TAIL = 1024 // 8, 1032 // 8
_LOST, _SAMPLE = 2, 9
_BEFORE = 12
"""Bytes of a sample in front of the event."""
_MOST_ROUNDS = 4
_EVERY_BIT = (1 << 64) - 1


def _steps(words: Words) -> npt.NDArray[np.intp]:
    # A size is whole 8 bytes; 0 is no record's, and becomes more than any ring has.
    steps = (words >> np.uint64(51)).astype(np.intp)
    steps[steps == 0] = 1 << 40
    return steps


class PerfRings:
    """The rings of `cpus`, each with `size` bytes of data; `fds` are their perf events. OSError where the
    kernel refuses to map them. `told_by_kernel`: it counts what a ring had no room for (since 6.0); where it
    does not, what the rings' records say of it is kept in `book`."""

    method = "drain"
    wakes_half_full = True

    def __init__(
        self,
        fds: Sequence[int],
        cpus: Sequence[int],
        size: int,
        event_size: int,
        book: Book,
        *,
        told_by_kernel: bool,
    ) -> None:
        self._rings = [_PerfRing(fd, cpu, size, book) for fd, cpu in zip(fds, cpus, strict=True)]
        self._book, self._told_by_kernel = book, told_by_kernel
        self._record = padded(event_size + _BEFORE)
        self.capacity = max(1, size // self._record) * len(fds)
        self.wakes = tuple(fds)

    def losses(self) -> dict[str, int]:
        """`lost`: events that a ring had no room for."""
        if not self._told_by_kernel:
            return {"lost": self._book.lost}
        return {"lost": sum(ring.lost() for ring in self._rings)}

    def drain(self, copier: Copier) -> float:
        """Take what is there from every CPU's ring; the share is that of the fullest."""
        return max((ring.drain(copier, self._record) for ring in self._rings), default=0.0)


class _PerfRing:
    """One CPU's ring."""

    def __init__(self, fd: int, cpu: int, size: int, book: Book) -> None:
        self._fd, self._cpu, self._size, self._book = fd, cpu, size, book
        pages = mmap.mmap(fd, mmap.PAGESIZE + size, mmap.MAP_SHARED)
        self._positions = np.frombuffer(pages, "<u8", mmap.PAGESIZE // 8)
        self._data: Words = np.frombuffer(pages, "<u8", size // 8, mmap.PAGESIZE)
        self._straight: Words = np.empty(size // 8, np.uint64)

    def lost(self) -> int:
        """Events that it had no room for, by the kernel's count."""
        lost: int = struct.unpack("=QQ", os.read(self._fd, 16))[1]
        return lost

    def drain(self, copier: Copier, record: int) -> float:
        """Take what is there; returns the share of the ring that was taken."""
        most = 0
        for _ in range(_MOST_ROUNDS):
            tail, head = int(self._positions[_TAIL]), int(self._positions[_HEAD])
            if head == tail:
                break
            most = max(most, head - tail)
            fence()
            words = self._unrolled(tail, head)
            copier.cpu = self._cpu
            for found in locate(words, _steps, _EVERY_BIT):
                if isinstance(found, Run):
                    self._take_run(words, found, copier)
                else:
                    self._take(words, found.at, copier)
            fence()
            copier.leaving()
            self._positions[_TAIL] = head
        return 1.0 if most + record > self._size else most / self._size

    def _unrolled(self, tail: int, head: int) -> Words:
        """The bytes from `tail` to `head` in a row."""
        first, last = tail % self._size // 8, head % self._size // 8
        if first < last:
            return self._data[first:last]
        behind = self._size // 8 - first
        self._straight[:behind] = self._data[first:]
        self._straight[behind : behind + last] = self._data[:last]
        return self._straight[: behind + last]

    def _take_run(self, words: Words, run: Run, copier: Copier) -> None:
        kind = int(words[run.start]) & 0xFFFFFFFF
        halves: Array = words.view("<u4")
        if kind == _LOST:
            self._book.lost += int(words[run.start + 2 :: run.step][: run.count].sum())
        elif kind == _SAMPLE:
            # Records of one size may hold events of one size only: what differs is in the padding.
            length = int(halves[run.start * 2 + 2])
            copier.run(halves, run.start * 2 + 3, run.step * 2, run.count, length)

    def _take(self, words: Words, at: Slots, copier: Copier) -> None:
        kinds = words[at].astype(np.uint32)
        self._book.lost += int(words[at[kinds == _LOST] + 2].sum())
        at = at[kinds == _SAMPLE] * 2
        halves: Array = words.view("<u4")
        copier.scattered(halves, at + 3, halves[at + 2])

"""BPF ring buffers: the kernel's pages lie in our memory; what was taken is told to it by moving a position.

Layout (kernel/bpf/ringbuf.c): page 0 is the consumer's position, ours to write; page 1 the producer's; then
the data, mapped twice in a row, so that a record never wraps. A record is a u32 length with two flags
(busy, discarded), a u32 that is the kernel's, the bytes, and padding to 8.
"""

from __future__ import annotations

import mmap

import numpy as np
import numpy.typing as npt

from bpfleet.draining.copying import Copier, fence
from bpfleet.draining.records import Run, Scattered, Words, locate
from bpfleet.events import padded

__all__ = ["RingBuffer"]

_BUSY, _DISCARD, _LENGTH = 1 << 31, 1 << 30, (1 << 30) - 1
_HEADER = 8
_MOST_ROUNDS = 4
"""A program that writes as fast as we read would keep us forever."""


def _steps(words: Words) -> npt.NDArray[np.intp]:
    # A header and the bytes in whole slots; the busy bit stays, and makes more slots of it than any ring has.
    headers = words.astype(np.uint32)
    headers &= np.uint32(_BUSY | _LENGTH)
    headers += np.uint32(_HEADER + 7)
    headers >>= np.uint32(3)
    return headers.astype(np.intp)


class RingBuffer:
    """One ring buffer of `size` bytes, mapped, with events of about `event_size` bytes; OSError where the
    kernel refuses."""

    method = "drain"
    wakes_half_full = False

    def __init__(self, fd: int, size: int, event_size: int) -> None:
        page = mmap.PAGESIZE
        self._consumer = np.frombuffer(mmap.mmap(fd, page, mmap.MAP_SHARED), "<u8", 1)
        # A BPF ring's pages can't be mapped read-only and writable at once; data and producer are read-only.
        pages = mmap.mmap(fd, page + 2 * size, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)
        self._producer = np.frombuffer(pages, "<u8", 1)
        self._data: Words = np.frombuffer(pages, "<u8", 2 * size // 8, page)
        self._size, self._record = size, padded(event_size) + _HEADER
        self.capacity = max(1, (size - 1) // self._record)
        self.wakes: tuple[int, ...] = (fd,)

    def losses(self) -> dict[str, int]:
        """None: the kernel does not count what a full ring refuses."""
        return {}

    def drain(self, copier: Copier) -> float:
        """Take what is there, up to the first record that is still being written."""
        most = 0
        for _ in range(_MOST_ROUNDS):
            at, end = int(self._consumer[0]), int(self._producer[0])
            most = max(most, end - at)
            fence()
            first = at % self._size // 8
            words = self._data[first : first + (end - at) // 8]
            done = 0
            for found in locate(words, _steps, 0xFFFFFFFF):
                done = self._take(words, found, copier)
            if not done:
                break
            fence()
            copier.leaving()
            self._consumer[0] = at + done * 8
        # The last byte is never used: so one more record has no room.
        return 1.0 if most + self._record > self._size - 1 else most / self._size

    def _take(self, words: Words, found: Run | Scattered, copier: Copier) -> int:
        """Copy the events of these records; returns the slot after them."""
        if isinstance(found, Run):
            header = int(words[found.start]) & 0xFFFFFFFF
            if not header & _DISCARD:
                copier.run(words, found.start + 1, found.step, found.count, header & _LENGTH)
            return found.start + found.step * found.count
        headers, at = words[found.at].astype(np.uint32), found.at + 1
        end = int(at[-1]) + padded(int(headers[-1]) & _LENGTH) // 8
        kept = headers < _DISCARD
        if not kept.all():
            headers, at = headers[kept], at[kept]
        copier.scattered(words, at, headers)
        return end

"""What was taken out of a map, told and lost since its program was loaded: in memory that outlives a worker.

One element of an mmapable array that the loader made and the supervisor holds: so the next worker knows
what the one before took and never told.
"""

from __future__ import annotations

import mmap

import numpy as np

__all__ = ["BOOK_BYTES", "Book"]

BOOK_BYTES = 64
_CONSUMED, _TOLD, _NO_ROOM, _WORKER, _FULL, _SHORT, _LOST = range(7)


class Book:
    """Counts of events, each a u64 that is whole whenever the process dies."""

    def __init__(self, fd: int) -> None:
        self._words = np.frombuffer(mmap.mmap(fd, BOOK_BYTES, mmap.MAP_SHARED), "<u8", BOOK_BYTES // 8)

    def settle(self, consumed: int = 0) -> None:
        """What a worker before this one took (at least `consumed`, by another count) and did not tell is
        lost."""
        self.consumed = max(consumed, self.consumed)
        left = self.consumed - self.told - self.no_room - self.worker_restart
        if left > 0:
            self._words[_WORKER] += left

    @property
    def consumed(self) -> int:
        """Events taken out of the map."""
        return int(self._words[_CONSUMED])

    @consumed.setter
    def consumed(self, count: int) -> None:
        self._words[_CONSUMED] = count

    @property
    def told(self) -> int:
        """Events that are rows of records."""
        return int(self._words[_TOLD])

    @told.setter
    def told(self, count: int) -> None:
        self._words[_TOLD] = count

    @property
    def no_room(self) -> int:
        """Events taken for which there was no room between two snapshots."""
        return int(self._words[_NO_ROOM])

    @no_room.setter
    def no_room(self, count: int) -> None:
        self._words[_NO_ROOM] = count

    @property
    def worker_restart(self) -> int:
        """Events that a worker had taken and not told when it died."""
        return int(self._words[_WORKER])

    @property
    def found_full(self) -> int:
        """Drains that found the buffer without room for one more event."""
        return int(self._words[_FULL])

    @found_full.setter
    def found_full(self, count: int) -> None:
        self._words[_FULL] = count

    @property
    def short(self) -> int:
        """Events that ended before the last of their layout's fields began."""
        return int(self._words[_SHORT])

    @short.setter
    def short(self, count: int) -> None:
        self._words[_SHORT] = count

    @property
    def lost(self) -> int:
        """Events that a ring had no room for, by its own records: of use where the kernel keeps no count."""
        return int(self._words[_LOST])

    @lost.setter
    def lost(self, count: int) -> None:
        self._words[_LOST] = count

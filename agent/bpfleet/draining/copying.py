"""Events' bytes from a ring into pending rows: all events at once.

An event that is shorter than its layout has zeros behind its end; of a longer one the rest is left out.
Both are counted.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from bpfleet.draining.book import Book
from bpfleet.draining.pending import Pending
from bpfleet.draining.records import Slots
from bpfleet.layout import Layout
from bpfleet.reading.columns import Array

__all__ = ["Copier", "fence"]

_MOST_SIZES = 16
_COUNTED_BY_SLOT = 1 << 16
_BLOCK = 2048
_lock = threading.Lock()

Lengths = npt.NDArray[np.uint32]


def fence() -> None:
    """Nothing read or written before this is seen after it: a lock's own barriers, for CPUs that reorder."""
    with _lock:
        pass


class Copier:
    """Fills `pending` with events of the layout `event`, and counts in `book`.

    `words` below are a ring's bytes as words of 8 bytes, or of 4 where events begin at odd halves of a slot.
    """

    def __init__(self, pending: Pending, book: Book, event: Layout) -> None:
        self._pending, self._book, self._size = pending, book, event.size
        self._last_begins = max((leaf.offset for leaf in event.columns()), default=0)
        self.cpu = 0
        self.sizes: Counter[int] = Counter()
        """Events by their size in bytes; those of sizes beyond the first sixteen under -1."""
        self._taken = 0

    def leaving(self) -> None:
        """What was copied leaves its ring now: from here on nobody else has it."""
        self._book.consumed += self._taken
        self._taken = 0

    def run(self, words: Array, start: int, step: int, count: int, length: int) -> None:
        """`count` events of `length` bytes each, `step` words apart, the first at word `start`."""
        self._tally(length, count)
        there = min(self._size, length)
        events = _windows(words, start, step, there)
        for first, rows in self._blocks(count, length):
            _events(rows, there)[:] = events[first : first + len(rows)]
            rows[:, there:] = 0

    def scattered(self, words: Array, at: Slots, lengths: Lengths) -> None:
        """Events of any `lengths` in bytes; `at` are the words where they begin, in order."""
        if not len(at):
            return
        self._tally_all(lengths)
        # A short event's row begins with what lies behind it too; at the end there is nothing behind.
        events = _windows(words, 0, 1, self._size)
        last = int(np.searchsorted(at, len(events)))
        behind = int(at[last]) if last < len(at) else len(words)
        rest = np.append(words[behind:], np.zeros(-(-self._size // words.itemsize), words.dtype))
        ending = _windows(rest, 0, 1, self._size)
        for first, rows in self._blocks(len(at), lengths):
            places, long = at[first : first + len(rows)], lengths[first : first + len(rows)]
            fitting = max(0, min(len(rows), last - first))
            target = _events(rows, self._size)
            target[:fitting] = events[places[:fitting]]
            target[fitting:] = ending[places[fitting:] - behind]
            short = np.flatnonzero(long < self._size)
            if len(short):
                cut = rows[short]
                cut[np.arange(rows.shape[1], dtype=np.uint32)[None, :] >= long[short, None]] = 0
                rows[short] = cut

    def _blocks(self, count: int, lengths: int | Lengths) -> Iterator[tuple[int, Array]]:
        """(first event, rows) for as many of `count` events as there is room for; the others are lost, and
        counted.

        A block of rows stays in the CPU's cache while it is filled.
        """
        number = self._book.consumed + self._taken + 1
        self._taken += count
        room = self._pending.room_for(count)
        if room < count:
            self._book.no_room += count - room
        for first in range(0, room, _BLOCK):
            rows = min(_BLOCK, room - first)
            size = lengths if isinstance(lengths, int) else lengths[first : first + rows]
            yield first, self._pending.add(rows, number + first, self.cpu, size)

    def _tally_all(self, lengths: Lengths) -> None:
        if int(lengths.max()) < _COUNTED_BY_SLOT:
            counted = np.bincount(lengths)
            sizes = np.flatnonzero(counted)
            counts = counted[sizes]
        else:
            sizes, counts = np.unique(lengths, return_counts=True)
        for size, count in zip(sizes.tolist(), counts.tolist(), strict=True):
            self._tally(size, count)

    def _tally(self, size: int, count: int) -> None:
        known = size in self.sizes or len(self.sizes) < _MOST_SIZES
        self.sizes[size if known else -1] += count
        if size <= self._last_begins:
            self._book.short += count


def _events(rows: Array, size: int) -> Array:
    """The first `size` bytes of each row, as one thing: numpy copies such things faster than bytes or
    words."""
    return rows[:, :size].view(f"V{size}")[:, 0] if size else rows[:, :0]


def _windows(words: Array, start: int, step: int, size: int) -> Array:
    """`size` bytes as one thing, at every `step`-th word from `start` on."""
    stride, offset = step * words.itemsize, start * words.itemsize
    count = max(0, (words.nbytes - offset - size) // stride + 1)
    if not size:
        return np.empty((count, 0), np.uint8)
    return np.ndarray((count,), f"V{size}", words if count else bytes(0), offset if count else 0, (stride,))

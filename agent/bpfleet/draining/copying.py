"""Events' bytes from a ring into pending rows: word by word of all events at once.

An event that is shorter than its layout has zeros behind its end; of a longer one the rest is left out.
Both are counted.
"""

from __future__ import annotations

import threading
from collections import Counter

import numpy as np
import numpy.typing as npt

from bpfleet.draining.book import Book
from bpfleet.draining.pending import Pending
from bpfleet.draining.records import Slots
from bpfleet.layout import Layout
from bpfleet.reading.columns import Array

__all__ = ["Copier", "fence"]

_MOST_SIZES = 16
_WIDE = 16
"""Words of an event from which on whole rows are copied: below it numpy is faster column by column."""
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
        self.short = 0
        """Events that end before the last of the layout's fields begins."""
        self._taken = 0

    def leaving(self) -> None:
        """What was copied leaves its ring now: from here on nobody else has it."""
        self._book.consumed += self._taken
        self._taken = 0

    def run(self, words: Array, start: int, step: int, count: int, length: int) -> None:
        """`count` events of `length` bytes each, `step` words apart, the first at word `start`."""
        self._tally(length, count)
        rows = self._rows(count, length)
        if rows is None:
            return
        there = min(self._size, length)
        wide = -(-there // words.itemsize)
        target, source = rows.view(words.dtype), words[start:]
        if wide > _WIDE:
            shape, strides = (len(rows), wide), (step * words.itemsize, words.itemsize)
            target[:, :wide] = np.lib.stride_tricks.as_strided(source, shape, strides)
        else:
            for column in range(wide):
                target[:, column] = source[column::step][: len(rows)]
        rows[:, there:] = 0

    def scattered(self, words: Array, at: Slots, lengths: Lengths) -> None:
        """Events of any `lengths` in bytes; `at` are the words where they begin."""
        if not len(at):
            return
        for size, count in zip(
            *(part.tolist() for part in np.unique(lengths, return_counts=True)), strict=True
        ):
            self._tally(size, count)
        rows = self._rows(len(at), lengths)
        if rows is None:
            return
        at, lengths = at[: len(rows)], lengths[: len(rows)]
        target = rows.view(words.dtype)
        for column in range(-(-self._size // words.itemsize)):
            # Beyond a short event's end is another record, or the end of the memory; it is blanked below.
            target[:, column] = words.take(at + column, mode="clip")
        if int(lengths.min()) < self._size:
            rows[np.arange(rows.shape[1], dtype=np.uint32)[None, :] >= lengths[:, None]] = 0

    def _rows(self, count: int, lengths: int | Lengths) -> Array | None:
        """Rows for as many of `count` events as there is room for; the others are counted as lost."""
        number = self._book.consumed + self._taken + 1
        self._taken += count
        room = self._pending.room_for(count)
        if room < count:
            self._book.no_room += count - room
        if not room:
            return None
        return self._pending.add(
            room, number, self.cpu, lengths if isinstance(lengths, int) else lengths[:room]
        )

    def _tally(self, size: int, count: int) -> None:
        known = size in self.sizes or len(self.sizes) < _MOST_SIZES
        self.sizes[size if known else -1] += count
        if size <= self._last_begins:
            self.short += count

"""The records that an aggregator has not confirmed yet, numbered; in memory, as the queue before the sink is.

The number of a record (its DATA seq) outlives a failed write and the sink object: when the delivery layer
offers the same frame again it gets the same number, so that the aggregator recognises what it already has.
"""

from __future__ import annotations

import uuid
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bpfleet import Frame
from bpfleet.wire import compress
from bpfleet_plugins.sinks.offered import Mark, Settled, mark

__all__ = ["Item", "Spool"]


@dataclass(slots=True)
class Item:
    """One numbered record."""

    seq: int
    frame: Frame
    data: bytes | memoryview
    """The record as it is sent."""


class Spool:
    """Numbers records from 1, in the order in which they are sent.

    `id` is new in each process, since the records of a process end with it.
    """

    def __init__(self, level: int | None) -> None:
        self.id = uuid.uuid4().hex
        self._level = level
        self._pending: OrderedDict[int, Item] = OrderedDict()
        self._next = 1
        self._confirmed = 0
        self._offered: Sequence[Frame] = []
        self._taken: list[tuple[int, Frame]] = []
        self._numbers: dict[Mark, int] = {}
        """Of the frames of a failed write that are not settled."""
        self._settled = Settled()

    @property
    def first(self) -> int:
        """The lowest number that is pending; the next one to be given where none is."""
        return next(iter(self._pending), self._next)

    @property
    def last(self) -> int:
        """The highest number given so far."""
        return self._next - 1

    def __len__(self) -> int:
        return len(self._pending)

    def pending(self) -> Iterator[Item]:
        """The records not settled yet, by number."""
        return iter(list(self._pending.values()))

    def take(self, frames: Sequence[Frame]) -> None:
        """Number `frames`, those offered before as they were; schemas are left out: snapshots carry theirs.

        What was settled in a write that failed is left out. What was offered before comes first, whatever
        stands between it now (a new gap, say): numbers only ever grow.
        """
        self._offered = frames
        old: list[tuple[int, Frame]] = []
        new: list[Frame] = []
        for frame in frames:
            if frame.kind == "schema" or frame in self._settled:
                continue
            number = self._numbers.pop(mark(frame), 0) if self._numbers else 0
            # A number below one that is confirmed would be taken for a repeat.
            if number > self._confirmed:
                old.append((number, frame))
            else:
                new.append(frame)
        self._taken = sorted(old, key=lambda pair: pair[0]) + list(enumerate(new, self._next))
        self._next += len(new)
        self._pending = OrderedDict((n, Item(n, frame, self.packed(frame))) for n, frame in self._taken)
        if self._numbers:
            # What is older than the ones offered now was dropped from the queue.
            newest = max((frame.seq for frame in frames), default=0)
            self._numbers = {m: number for m, number in self._numbers.items() if m[1] > newest}

    def packed(self, frame: Frame) -> bytes | memoryview:
        """The record as it is sent: compressed where that is wanted and makes it smaller."""
        if self._level is not None:
            packed = compress(frame.data, self._level)
            if len(packed) < len(frame.data):
                return packed
        return frame.data

    def confirmed(self, seq: int) -> None:
        """Every record up to `seq` is safe."""
        self._confirmed = max(self._confirmed, seq)
        while self._pending and self.first <= seq:
            self._pending.popitem(last=False)

    def give_up(self, seq: int) -> None:
        """The record `seq` will not be delivered."""
        self._pending.pop(seq, None)

    def end_write(self) -> None:
        """Let go of the records. Where some are pending the write has failed: remember what was settled."""
        if self._pending:
            self._numbers |= {mark(item.frame): item.seq for item in self._pending.values()}
            self._settled.add(frame for number, frame in self._taken if number not in self._pending)
        else:
            self._settled.leave_behind(self._offered)
        self._pending.clear()
        self._taken, self._offered = [], []

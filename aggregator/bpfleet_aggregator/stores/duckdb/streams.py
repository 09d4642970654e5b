"""Which read comes before which: noted as snapshots are stored, so that no question has to sort for it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from bpfleet.wire import Snapshot

__all__ = ["Link", "Read", "Streams"]

_NEVER = -1
_Stream = tuple[str, str, str, int]
"""Agent, schema, boot and generation: within these, counters only grow."""


class Link(NamedTuple):
    """How a snapshot hangs together with others."""

    read: int
    """The number of the snapshot that was the first part of the same read."""
    before: int | None
    """The read before; None where there is none."""
    before_t1: int | None
    before_whole: bool | None
    late: bool
    """It came after a later read of its stream, so nothing is said of what came before it."""


class Read(NamedTuple):
    """The latest read of a stream."""

    run: int
    first: int
    """seq - part, the same for all parts."""
    t1: int
    next_part: int
    """Parts that have come, if they came one after another; -1 if not."""
    parts: int
    complete: bool
    link: Link
    at: int
    """When it was received, Unix time in ns."""

    @property
    def is_whole(self) -> bool:
        """Whether each key that was in the map is in it."""
        return self.complete and self.next_part == self.parts


class Streams:
    """The latest read of every stream. What a batch changes counts once it is kept."""

    def __init__(self) -> None:
        self._kept: dict[_Stream, Read] = {}
        self._changed: dict[_Stream, Read] = {}

    def link(self, snapshot: Snapshot, number: int, at: int) -> Link:
        """Where `snapshot`, which becomes snapshot `number` of the store, belongs."""
        origin = snapshot.origin
        stream = (origin.agent, snapshot.schema.id, origin.boot, snapshot.generation)
        last = self._changed.get(stream) or self._kept.get(stream)
        first = snapshot.seq - snapshot.part
        if last is not None and (last.run, last.first) == (origin.run, first):
            if snapshot.part == last.next_part:
                self._changed[stream] = last._replace(
                    next_part=snapshot.part + 1, complete=last.complete and snapshot.complete, at=at
                )
            elif snapshot.part > last.next_part:
                self._changed[stream] = last._replace(next_part=_NEVER)
            return last.link
        if last is None:
            link = Link(number, None, None, None, False)
        elif (snapshot.t1, origin.run, first) > (last.t1, last.run, last.first):
            link = Link(number, last.link.read, last.t1, last.is_whole, False)
        else:
            return Link(number, None, None, None, True)
        self._changed[stream] = Read(
            origin.run,
            first,
            snapshot.t1,
            1 if snapshot.part == 0 else _NEVER,
            snapshot.parts,
            snapshot.complete,
            link,
            at,
        )
        return link

    def keep(self) -> None:
        """What was linked is stored."""
        self._kept.update(self._changed)
        self._changed.clear()

    def forget(self) -> None:
        """What was linked since the last `keep` is not stored."""
        self._changed.clear()

    def rows(self, since: int) -> list[tuple[Any, ...]]:
        """As the table `streams` has them: those with something received after `since` (Unix time, ns)."""
        self._kept = {stream: last for stream, last in self._kept.items() if last.at >= since}
        return [
            (*stream, *one[:2], one.link.read, *one[2:6], *one.link[1:4], one.at)
            for stream, one in self._kept.items()
        ]

    def restore(self, carried: Iterable[tuple[Any, ...]], stored: Iterable[tuple[Any, ...]]) -> None:
        """From a partition: its table `streams`, and of its snapshots the latest read of each stream.

        Rows of `stored` are as those of `carried`, with the first of the parts that are there at the end.
        """
        self._changed.clear()
        self._kept = {row[:4]: _read(row) for row in carried}
        for *row, first_part in stored:
            stream, read = tuple(row[:4]), _read(tuple(row))
            last = self._kept.get(stream)
            if last is not None and last.link.read == read.link.read:
                # Its first parts are in the partition before.
                goes_on = first_part == last.next_part
                read = read._replace(
                    next_part=read.next_part + last.next_part if goes_on and read.next_part > 0 else _NEVER,
                    complete=read.complete and last.complete,
                )
            elif first_part != 0:
                read = read._replace(next_part=_NEVER)
            self._kept[stream] = read


def _read(row: tuple[Any, ...]) -> Read:
    run, first, read, t1, next_part, parts, complete, before, before_t1, before_whole, at = row[4:]
    return Read(
        run, first, t1, next_part, parts, complete, Link(read, before, before_t1, before_whole, False), at
    )

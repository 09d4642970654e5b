"""One drained map as the tick sees it: `read` gives the events since the last read, as columns."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Protocol

from bpfleet import kernel
from bpfleet.draining.book import Book
from bpfleet.draining.copying import Copier
from bpfleet.draining.pace import Pace
from bpfleet.draining.pending import Pending
from bpfleet.layout import Layout
from bpfleet.reading.columns import Read

__all__ = ["Drainer", "Source"]


class Source(Protocol):
    """Where events come from."""

    method: str
    capacity: int
    """Events that there is room for in the kernel: an estimate where they differ in size."""
    wakes: tuple[int, ...]
    """Fds that become readable when there is something to take …"""
    wakes_half_full: bool
    """… or only when a half of the room is taken."""

    def drain(self, copier: Copier) -> float:
        """Take what is there; returns the share of the room (0 to 1) that was taken."""

    def losses(self) -> dict[str, int]:
        """Losses that the kernel counts, since the program was loaded."""


class Drainer:
    """Drains `source` into rows of at most `most_bytes`; `counted`: the program counts what it could not
    put in."""

    why_not: dict[str, str]
    wanted_rows = 0

    def __init__(
        self,
        fd: int,
        source: Source,
        book: Book,
        ours: Layout,
        event: Layout,
        *,
        most_bytes: int,
        counted: bool,
    ) -> None:
        self._source, self._book = source, book
        self._pending = Pending(ours, event, most_bytes)
        self._copier = Copier(self._pending, book, event)
        self._kernel_counts = bool(source.losses())
        self._counted = counted
        self._full_before = book.found_full
        self._given = 0
        self.pace = Pace()
        self.info = replace(kernel.map_info(fd), max_entries=source.capacity)
        self.why_not = {}

    @property
    def method(self) -> str:
        """How it is drained."""
        return self._source.method

    @property
    def max_entries(self) -> int:
        """Events that there is room for in the kernel."""
        return self.info.max_entries

    @property
    def memory_bytes(self) -> int:
        """Bytes of the rows that wait."""
        return self._pending.memory_bytes

    @property
    def wakes(self) -> tuple[int, ...]:
        """Fds that become readable when events are there."""
        return self._source.wakes

    @property
    def wakes_half_full(self) -> bool:
        """Whether they do so only when a half of the room is taken."""
        return self._source.wakes_half_full

    @property
    def sizes(self) -> dict[str, int]:
        """Events by their size in bytes, as far as they were met by this worker."""
        return {
            "other" if size < 0 else str(size): count for size, count in sorted(self._copier.sizes.items())
        }

    @property
    def events(self) -> int:
        """Events taken out of the map since its program was loaded."""
        return self._book.consumed

    @property
    def found_full(self) -> int:
        """Drains that found no room for one more event, since the program was loaded."""
        return self._book.found_full

    @property
    def losses_known(self) -> bool:
        """Whether somebody counts what did not get into the map: the kernel or the program."""
        return self._counted or self._kernel_counts

    def drain(self) -> None:
        """Take what is there into rows that wait for the next read."""
        share = self._source.drain(self._copier)
        if share >= 1:
            self._book.found_full += 1
        self.pace.drained(time.monotonic(), share)

    def read(self) -> Read:
        """The events taken since the last read; incomplete where some may be missing that nobody counted."""
        self.drain()
        rows, columns = self._pending.take()
        self._given = rows
        full, self._full_before = self._full_before, self._book.found_full
        complete = self.losses_known or full == self._full_before
        return Read(self.method, rows, rows, columns, complete=complete)

    def told(self) -> None:
        """What was read last is in records."""
        self._book.told += self._given
        self._given = 0

    def losses(self) -> dict[str, int]:
        """By reason, since the program was loaded; what is 0 and not counted by the kernel is left out."""
        found = dict(self._source.losses())
        counts = {
            "no_room": self._book.no_room,
            "worker_restart": self._book.worker_restart,
            "short_event": self._book.short,
        }
        return found | {reason: count for reason, count in counts.items() if count}

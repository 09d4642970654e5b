"""Drains between two snapshots: a buffer of half a second serves an interval of ten."""

from __future__ import annotations

import select
import time
from collections.abc import Iterable

from bpfleet.draining.drainer import Drainer
from bpfleet.draining.pace import LONGEST
from bpfleet.worker.collecting import RunningCollector

__all__ = ["EarlyDrains"]


class EarlyDrains:
    """The drained maps of `collectors`; listens on `poll` for the kernel's word that events are there."""

    def __init__(self, collectors: Iterable[RunningCollector], poll: select.poll) -> None:
        self._poll = poll
        self._drainers = [
            one.reader for each in collectors for one in each.maps if isinstance(one.reader, Drainer)
        ]
        self._of = {fd: one for one in self._drainers for fd in one.wakes}
        self._listening: set[int] = set()
        for one in self._drainers:
            self._listen(one)

    @property
    def due(self) -> float:
        """When the next map is to be drained (monotonic); infinite where none is."""
        return min((one.pace.due for one in self._drainers), default=float("inf"))

    def run(self) -> None:
        """Drain what is due."""
        for one in self._drainers:
            now = time.monotonic()
            if now < one.pace.due:
                continue
            try:
                one.drain()
            except OSError:
                # The next snapshot meets the same error, and tells it.
                one.pace.due = now + LONGEST
            self._listen(one)

    def woken(self, fd: int) -> bool:
        """Whether `fd`, which is readable, is one of ours."""
        one = self._of.get(fd)
        if one is None:
            return False
        one.pace.woken(time.monotonic(), half_full=one.wakes_half_full)
        self._listen(one)
        return True

    def _listen(self, one: Drainer) -> None:
        """A ring buffer tells of each event that comes while it is empty: one such word is enough."""
        wanted = one.wakes_half_full or one.pace.idle
        for fd in one.wakes:
            if wanted and fd not in self._listening:
                self._poll.register(fd, select.POLLIN)
                self._listening.add(fd)
            elif not wanted and fd in self._listening:
                self._poll.unregister(fd)
                self._listening.discard(fd)

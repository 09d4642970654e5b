"""The committer: one thread that hands batches to the store, and says what has become of them.

It alone calls the store. What it is given it deals with in that order, so that when it answers for a spool's
mark, all that came before is stored, or refused.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue

import msgspec

from bpfleet.errors import BpfleetError, StoreError
from bpfleet.stores import Received, Store
from bpfleet_aggregator.poison import attempt
from bpfleet_aggregator.report import Report
from bpfleet_aggregator.session import Session

__all__ = ["Committer", "Item", "Marked", "Outcome", "Settled", "Unavailable"]

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
_MAINTAIN = 60.0
_GREETINGS_AT_ONCE = 500


class Item(msgspec.Struct, frozen=True, eq=False, gc=False):
    """One record, and the session it came by."""

    session: Session
    received: Received
    memory: int


@dataclass(frozen=True, slots=True)
class Settled:
    """A batch that is done with: all but `refused` is durable."""

    marks: dict[Session, int]
    """The highest seq of each session in it."""
    refused: Sequence[tuple[Item, str]]
    records: int
    bytes: int
    memory: int


@dataclass(frozen=True, slots=True)
class Marked:
    """Sessions that said HELLO, with the marks of their spools."""

    durable: Sequence[tuple[Session, int]]


@dataclass(frozen=True, slots=True)
class Unavailable:
    """The store can't be asked now, so these sessions can't begin."""

    sessions: Sequence[Session]
    reason: str


Outcome = Settled | Marked | Unavailable


@dataclass(slots=True)
class _Work:
    items: list[Item] = field(default_factory=list)
    greeted: list[Session] = field(default_factory=list)
    since: float = 0.0
    ends: bool = False


class Committer:
    """Stores in a thread of its own. `take`, `greet`, `end` and `outcomes` are for the receiving thread."""

    def __init__(self, store: Store, report: Report, *, interval: float, size: int) -> None:
        self.store, self._report = store, report
        self._interval, self._size = interval, size
        self._given: SimpleQueue[list[Item] | Session | None] = SimpleQueue()
        self._outcomes: deque[Outcome] = deque()
        self._thread = threading.Thread(target=self._run, name="committer", daemon=True)
        self._maintained = time.monotonic()
        self.wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        """Can be read when there are outcomes."""
        self._tries = 0
        self.trouble = ""
        """Why nothing can be stored now; "" while all is well."""
        self.failed: BaseException | None = None

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def take(self, items: list[Item]) -> None:
        """Store these."""
        self._given.put(items)

    def greet(self, session: Session) -> None:
        """Say what is durable of that session's spool."""
        self._given.put(session)

    def end(self) -> None:
        """Store what was given, then close the store."""
        self._given.put(None)

    def join(self, seconds: float) -> bool:
        """Wait for the end; False where it has not come."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def outcomes(self) -> Iterator[Outcome]:
        """What has become of what was given, once each."""
        try:
            os.eventfd_read(self.wakeup)
        except BlockingIOError:
            return
        while self._outcomes:
            yield self._outcomes.popleft()

    # ---- the thread

    def _run(self) -> None:
        try:
            work = _Work()
            while not work.ends or work.items or work.greeted:
                self._gather(work)
                if work.items and not self._commit(work):
                    continue
                self._answer(work)
                self._maintain()
        except BaseException as error:
            self.failed = error
        finally:
            try:
                self.store.close()
            except Exception as error:
                self.failed = self.failed or error
            os.eventfd_write(self.wakeup, 1)

    def _gather(self, work: _Work) -> None:
        """Add what was given, until the batch is full or old enough, or somebody waits for a mark."""
        while len(work.items) < self._size and not work.ends:
            if work.greeted:
                timeout = 0.0
            elif work.items:
                timeout = work.since + self._interval - time.monotonic()
            else:
                timeout = _MAINTAIN
            try:
                given = self._given.get(timeout > 0, max(timeout, 0) or None)
            except Empty:
                return
            if given is None:
                work.ends = True
            elif isinstance(given, Session):
                work.greeted.append(given)
                if len(work.greeted) >= _GREETINGS_AT_ONCE:
                    return
            else:
                if not work.items:
                    work.since = time.monotonic()
                work.items += given

    def _commit(self, work: _Work) -> bool:
        """Store the batch; False where that can't be done now: after a pause it is tried again, with more."""
        tried = attempt(self.store, [item.received for item in work.items])
        if tried.trouble is None:
            self._recovered()
        if tried.done:
            done, work.items = work.items[: tried.done], work.items[tried.done :]
            refused = [(done[index], reason) for index, reason in tried.refused]
            self._say(
                Settled(
                    {item.session: item.received.seq for item in done},
                    refused,
                    len(done) - len(refused),
                    sum(item.received.size for item in done),
                    sum(item.memory for item in done),
                )
            )
        if tried.trouble is not None:
            self._pause(work, tried.trouble)
            return False
        return True

    def _answer(self, work: _Work) -> None:
        if not work.greeted:
            return
        sessions, work.greeted = work.greeted, []
        try:
            marks = self.store.marks([(session.agent, session.spool) for session in sessions])
        except StoreError as error:
            self._say(Unavailable(sessions, error.what))
            return
        self._say(Marked(list(zip(sessions, marks, strict=True))))

    def _pause(self, work: _Work, error: StoreError) -> None:
        if not self.trouble:
            self._report.note(f"store: nothing can be stored now: {error.what}; it is tried again")
            self._tries = 0
        self.trouble = error.what
        if work.greeted:
            self._say(Unavailable(work.greeted, error.what))
            work.greeted = []
        self._tries += 1
        longest = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2**self._tries)
        end = time.monotonic() + random.uniform(longest / 2, longest)
        while (left := end - time.monotonic()) > 0:
            # Who comes meanwhile is told at once.
            try:
                given = self._given.get(True, left)
            except Empty:
                return
            if given is None:
                work.ends = True
                return
            if isinstance(given, Session):
                self._say(Unavailable([given], error.what))
            else:
                work.items += given

    def _recovered(self) -> None:
        if self.trouble:
            self.trouble = ""
            self._report.note("store: records are stored again")

    def _maintain(self) -> None:
        if time.monotonic() - self._maintained < _MAINTAIN:
            return
        self._maintained = time.monotonic()
        try:
            self.store.maintain()
        except BpfleetError as error:
            self._report.note(f"store: upkeep failed: {error.what}")

    def _say(self, outcome: Outcome) -> None:
        self._outcomes.append(outcome)
        os.eventfd_write(self.wakeup, 1)

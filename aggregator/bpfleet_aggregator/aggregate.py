"""The aggregator's main path, from top to bottom: receive → check → dedup → commit → acknowledge.

    agents ──► Router ──► Checker ──► Committer (a thread) ──► store
       ◄── ACK, NACK ──────────────── outcomes ◄──┘

One thread receives and answers, or shards do for it; one commits. docs/delivery.md is the protocol. Nothing
is acknowledged before the store has it; what is not taken ends the session, so that it is sent again.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from bpfleet.errors import WireError
from bpfleet.stores import Received
from bpfleet.wire import Decoder
from bpfleet.wire.messages import Ack, Bye, Data, Hello, Nack, Welcome, decode
from bpfleet_aggregator.admission import Admission
from bpfleet_aggregator.check import Checker, memory_of
from bpfleet_aggregator.committer import Committer, Item, Marked, Outcome, Settled, Unavailable
from bpfleet_aggregator.config import AggregatorSettings
from bpfleet_aggregator.credit import Credit
from bpfleet_aggregator.report import Counts, Report
from bpfleet_aggregator.schema_budget import OverBudget, SchemaBudget
from bpfleet_aggregator.session import Session, Sessions
from bpfleet_aggregator.shards import Incoming, Receiver

__all__ = ["Aggregator"]

_LOOK_AROUND_MS = 100
_LOOK_FOR_GONE = 10.0


class Aggregator:
    """Receives records and has them stored, until `stopping` says so."""

    def __init__(
        self,
        settings: AggregatorSettings,
        router: Receiver,
        committer: Committer,
        admission: Admission,
        report: Report,
    ) -> None:
        self._settings, self._router, self._committer = settings, router, committer
        self._admission, self._report = admission, report
        self.sessions, self.counts, self._share = Sessions(), Counts(), Credit(settings)
        self._checker = Checker(settings.max_size, SchemaBudget(settings, committer.store))
        self._batch: list[Item] = []
        self._greeting: list[Session] = []
        self.in_flight = 0
        """Bytes of records that are received and not yet stored."""
        self._waiting: set[Session] = set()
        self._now = self._looked = time.monotonic()
        self._at = 0
        router.wake_on(committer.wakeup)

    def run(self, stopping: Callable[[], bool], now_and_then: Callable[[], None]) -> None:
        """Until `stopping`: receive, hand over, answer."""
        while not stopping():
            self._router.wait(_LOOK_AROUND_MS)
            self.receive()
            self.answer()
            self._look_for_gone()
            now_and_then()

    def receive(self) -> None:
        """Take what has arrived; hand it to the committer."""
        self._now, self._at = time.monotonic(), time.time_ns()
        for arrived in self._router.received(self.sessions.by_peer):
            self._hear(arrived)
        if self._batch:
            self._committer.take(self._batch)
            self._batch = []
        if self._greeting:
            self._greet()

    def answer(self) -> None:
        """Tell agents what the committer has done."""
        for outcome in self._committer.outcomes():
            self._tell(outcome)

    def end(self, reason: str) -> None:
        """Say BYE to all."""
        for session in self.sessions:
            self._drop(session, reason)

    # ---- receive

    def _hear(self, arrived: Incoming) -> None:
        session = self.sessions.get(arrived.peer)
        try:
            message = decode(arrived.parts)
            if isinstance(message, Data):
                self._data(arrived, session, message)
            elif isinstance(message, Hello):
                self._hello(arrived, session, message)
            elif isinstance(message, Bye):
                if session is not None:
                    self.sessions.drop(session)
            else:
                raise WireError(f"an agent does not send {message.op.upper()}")
        except WireError as error:
            self._violation(arrived, session, error.what)

    def _violation(self, arrived: Incoming, session: Session | None, what: str) -> None:
        self.counts.violations += 1
        who = session.agent if session else "a peer without a session"
        where = session.address if session else arrived.address
        self._report.note(f"protocol: {who} at {where or 'unknown'}: {what}")
        if session is not None:
            self.sessions.drop(session)
        self._router.send(arrived.peer, Bye(reason=what))

    def _hello(self, arrived: Incoming, before: Session | None, hello: Hello) -> None:
        key, address = (before.key, before.address) if before else (arrived.key, arrived.address)
        if before is not None:
            self.sessions.drop(before)
        refused = self._admission.refusal(key, hello.agent)
        if refused:
            self._report.note(f"refused: agent {hello.agent} at {address}: {refused}")
            self._router.send(arrived.peer, self._welcome(0, 0, refused))
            return
        decoder = Decoder(self._checker.limits)
        session = Session(
            arrived.peer, hello.agent, hello.spool, hello.last, key, address, self._now, decoder
        )
        self._make_room(session)
        self.sessions.add(session)
        self._greeting.append(session)

    def _make_room(self, session: Session) -> None:
        """The newer session of one spool wins: the older one's agent is gone, as a rule without a word."""
        for other in list(self.sessions.of_agent(session.agent)):
            if other.address != session.address:
                self._report.note(
                    f"duplicate: agent {session.agent} speaks from {other.address} and {session.address}: "
                    "has it moved, or have two machines one id (a cloned disk)?"
                )
            if other.spool == session.spool:
                self._drop(other, f"a newer session of this spool began at {session.address or 'this host'}")

    def _greet(self) -> None:
        """After the records that came before, so that their marks are counted."""
        sessions, self._greeting = self._greeting, []
        trouble = self._admission.save()
        for session in sessions:
            if trouble:
                self._drop(session, trouble)
            else:
                self._committer.greet(session)

    # ---- check, dedup

    def _data(self, arrived: Incoming, session: Session | None, data: Data) -> None:
        if session is None:
            if self.sessions.is_to_be_told(arrived.peer):
                self._router.send(arrived.peer, Bye(reason="say HELLO first"))
            return
        if not session.welcomed or data.spool != session.spool:
            raise WireError("DATA before WELCOME" if not session.welcomed else "DATA of another spool")
        session.heard = self._now
        frame = bytes(data.frame)
        if data.seq == 0:
            self._schema(session, frame)
        elif data.seq <= session.taken:
            self.counts.repeats += 1
            if data.seq <= session.durable:
                self._acknowledge(session, session.durable)
        elif self.in_flight > self._settings.memory:
            self._turn_away(session, data.seq)
        else:
            self._record(session, data.seq, frame)

    def _schema(self, session: Session, frame: bytes) -> None:
        try:
            self._checker.schema(session, frame)
        except WireError as error:
            # It has no number that could be refused; the snapshots that need it will be.
            self._report.note(f"schema: agent {session.agent} sent one that can't be used: {error.what}")

    def _turn_away(self, session: Session, seq: int) -> None:
        """No room. Later records must not overtake this one, so the session ends."""
        self.counts.turned_away += 1
        self._router.send(session.peer, Nack(seq=seq, fatal=False, reason="no room for more records now"))
        self.sessions.drop(session)

    def _record(self, session: Session, seq: int, frame: bytes) -> None:
        session.taken = seq
        try:
            record = self._checker.record(session, frame)
        except WireError as error:
            self.counts.over_budget += isinstance(error, OverBudget)
            self._refuse(session, seq, error.what)
            return
        memory = memory_of(record, len(frame))
        self.in_flight += memory
        session.given = seq
        received = Received(session.agent, session.spool, seq, record, len(frame), self._at)
        self._batch.append(Item(session, received, memory))

    def _refuse(self, session: Session, seq: int, reason: str) -> None:
        self.counts.refused += 1
        self._report.note(f"record: agent {session.agent}, record {seq} is refused: {reason}")
        if self.sessions.live(session) and not self._router.send(
            session.peer, Nack(seq=seq, fatal=True, reason=reason)
        ):
            self.sessions.drop(session)

    # ---- acknowledge

    def _tell(self, outcome: Outcome) -> None:
        if isinstance(outcome, Settled):
            self._settled(outcome)
        elif isinstance(outcome, Marked):
            for session, durable in outcome.durable:
                self._marked(session, durable)
        elif isinstance(outcome, Unavailable):
            for session in outcome.sessions:
                self._drop(session, f"nothing can be stored now: {outcome.reason}")

    def _settled(self, done: Settled) -> None:
        self.in_flight -= done.memory
        self.counts.commits += 1
        self.counts.records += done.records
        self.counts.bytes += done.bytes
        self._share.stored(done.records, done.memory)
        # Before the ACK that counts them.
        for item, reason in done.refused:
            self._refuse(item.session, item.received.seq, reason)
        share = self._credit()
        for session, seq in done.marks.items():
            session.durable = seq
            if session.is_due(seq, share) and self.sessions.live(session):
                self._acknowledge(session, seq)
        if self._waiting and self._credit():
            waiting, self._waiting = self._waiting, set()
            for session in filter(self.sessions.live, waiting):
                self._acknowledge(session, session.durable)

    def _marked(self, session: Session, durable: int) -> None:
        if not self.sessions.live(session):
            return
        if durable > session.last:
            reason = (
                f"of spool {session.spool} record {durable} is stored, its last is {session.last}: "
                "was the agent's state restored from a copy? it goes on under another id"
            )
            self._report.note(f"refused: agent {session.agent} at {session.address}: {reason}")
            self._router.send(session.peer, self._welcome(durable, 0, reason))
            self.sessions.drop(session)
            return
        session.taken = session.durable = session.told = durable
        session.welcomed = True
        if not self._router.send(session.peer, self._welcome(durable, self._credit(session))):
            self.sessions.drop(session)

    def _acknowledge(self, session: Session, seq: int) -> None:
        session.told = seq
        if not self._router.send(session.peer, Ack(seq=seq, credit=self._credit(session))):
            self.sessions.drop(session)

    def _credit(self, session: Session | None = None) -> int:
        """Records that an agent may have on their way: none while what waits can't be stored."""
        share = 0 if self._committer.trouble else self._share.of_each(len(self.sessions), self.in_flight)
        if share == 0 and session is not None:
            self._waiting.add(session)
        return share

    def _welcome(self, durable: int, credit: int, refused: str = "") -> Welcome:
        return Welcome(durable=durable, credit=credit, max_size=int(self._settings.max_size), refused=refused)

    # ---- sessions

    def _drop(self, session: Session, reason: str) -> None:
        if self.sessions.live(session):
            self._router.send(session.peer, Bye(reason=reason))
            self.sessions.drop(session)

    def _look_for_gone(self) -> None:
        """Agents may be silent for hours; that a connection has ended shows when something is sent to it."""
        now = time.monotonic()
        if now - self._looked < min(_LOOK_FOR_GONE, self._settings.idle):
            return
        self._looked = now
        for session in self.sessions:
            if now - session.heard > self._settings.idle:
                session.heard = now
                if session.welcomed:
                    self._acknowledge(session, session.durable)

    def keys_changed(self) -> None:
        """End the sessions of keys that are admitted no longer."""
        for session in self.sessions:
            refused = self._admission.refusal(session.key, session.agent)
            if refused:
                self._report.note(f"refused: agent {session.agent} at {session.address}: {refused}")
                self._drop(session, refused)

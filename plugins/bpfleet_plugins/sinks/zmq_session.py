"""One conversation with one aggregator over one socket: HELLO, WELCOME, DATA and ACKs."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import zmq

from bpfleet import WireError
from bpfleet.wire.messages import Ack, Bye, Data, Hello, Message, Nack, Welcome, decode, encode
from bpfleet_plugins.sinks.spool import Item, Spool
from bpfleet_plugins.sinks.zmq_socket import Connection, Refused

__all__ = ["Session", "SessionOver", "Terms"]

_SILENT = "does an aggregator listen there, and can this host reach it?"
_STRANGER = "is that a bpfleet aggregator, of a release that fits this agent's?"
_BUSY = "see the aggregator's own log; the records wait here and are sent again"

_LOOK_AROUND_MS = 100
_PATIENCE_AT_THE_END = 1.0
_BYE_LINGER_MS = 200
_MOST_AT_ONCE = 1000
_PAGE_BYTES = 1 << 20
_IN_FLIGHT_BYTES = 16 << 20
"""More is not handed to the socket, whatever the window: it would be held in memory."""


class SessionOver(Exception):
    """Raised when a session has come to its end before everything was confirmed.

    `welcomed` says whether there was a WELCOME, `strange` whether it is no use to try this peer again soon:
    it does not speak our protocol, or does not admit us.
    """

    def __init__(
        self, reason: str, *, remedy: str = _BUSY, welcomed: bool = False, strange: bool = False
    ) -> None:
        super().__init__(reason)
        self.reason, self.remedy, self.welcomed, self.strange = reason, remedy, welcomed, strange


@dataclass(frozen=True, slots=True)
class Terms:
    """What every session of a sink goes by. Times are in seconds."""

    agent: str
    window: int
    hello_timeout: float
    ack_timeout: float
    time_left: Callable[[], float]
    """Until the agent ends; inf while it runs."""
    give_up: Callable[[Item, bytes, str], None]
    """Keeps a record that can't be delivered: the record, its schema ("" for none), the reason."""


class Session:
    """Says HELLO on `connection`, which it closes in the end. Raises SessionOver where it is not welcomed."""

    def __init__(self, connection: Connection, endpoint: str, spool: Spool, terms: Terms) -> None:
        self.endpoint = endpoint
        self.confirmed = 0
        """Records confirmed, or refused for good, in this session."""
        self._connection, self._socket = connection, connection.socket
        self._spool, self._id, self._terms = spool, spool.id, terms
        self._schemas: set[int] = set()
        self._page: deque[Item] = deque()
        self._in_flight: deque[Item] = deque()
        self._welcomed = False
        self._sent = self._credit = self._max_size = 0
        try:
            self._greet()
        except BaseException:
            self.close()
            raise

    def deliver(self, enough: Callable[[], bool]) -> None:
        """Send what waits in the spool; return once all of it is confirmed, or soon after `enough`."""
        progress = time.monotonic()
        while self._spool.id == self._id:
            idle = not self._in_flight
            resting = enough()
            blocked = not resting and self._send()
            if not self._in_flight and (resting or not self._page):
                return
            if idle and self._in_flight:
                progress = time.monotonic()
            if self._listen():
                progress = time.monotonic()
            elif self._in_flight or self._page:
                self._check_connection()
                self._check_deadline(progress, self._terms.ack_timeout, "no ACK")
                self._wait(zmq.POLLIN | (zmq.POLLOUT if blocked else 0))
        raise self._over("the spool was begun anew")

    def look(self) -> None:
        """Between deliveries: hear whether the other end has left."""
        self._listen()
        self._check_connection()

    def close(self) -> None:
        """Say BYE where anybody listens, and close."""
        said = self._welcomed and not self._socket.closed and self._try_to_send(Bye())
        self._connection.close(linger=_BYE_LINGER_MS if said else 0)

    # ---- HELLO and WELCOME

    def _greet(self) -> None:
        spool, timeout = self._spool, self._terms.hello_timeout
        hello = Hello(agent=self._terms.agent, spool=self._id, first=spool.first, last=spool.last)
        began, said = time.monotonic(), False
        while True:
            said = said or self._try_to_send(hello)
            for message in self._received():
                self._take_welcome(message)
                return
            self._check_connection()
            self._check_deadline(began, timeout, "no WELCOME" if said else "no connection")
            self._wait(zmq.POLLIN if said else zmq.POLLIN | zmq.POLLOUT)

    def _take_welcome(self, message: Message) -> None:
        if isinstance(message, Bye):
            raise self._over(f"the aggregator ended the session: {message.reason or 'no reason given'}")
        if not isinstance(message, Welcome):
            raise self._strange(f"it answered HELLO with {message.op.upper()}")
        # A refusal that says how far it is means: your spool is behind, see to it.
        if message.durable > self._spool.last and not message.refused:
            raise self._strange(
                f"it claims records up to {message.durable} of this spool, whose last is {self._spool.last}"
            )
        if (message.durable or not message.refused) and not self._spool.heard(message.durable, self._id):
            raise self._over("the spool was restored from a backup, and goes on under another id")
        if message.refused:
            raise SessionOver(f"the aggregator refuses this agent: {message.refused}", strange=True)
        self._welcomed = True
        self._credit, self._max_size = message.credit, message.max_size
        self._confirm(message.durable)

    # ---- DATA and ACK

    def _send(self) -> bool:
        """Send while there is credit; True where the socket takes no more for now."""
        while self._page or self._turn_page():
            if len(self._in_flight) >= min(self._credit, self._terms.window):
                return False
            item = self._page[0]
            schema = b""
            if item.schema and item.schema not in self._schemas:
                schema = self._spool.schema(item.schema, self._id)
            size = max(len(item.data), len(schema))
            if size > self._max_size:
                self._page.popleft()
                self._sent = item.seq
                self._give_up(item, f"it has {size} bytes, the aggregator takes {self._max_size}")
                continue
            if sum(len(one.data) for one in self._in_flight) + size > _IN_FLIGHT_BYTES and self._in_flight:
                return False
            if schema:
                if not self._try_to_send(Data(spool=self._id, seq=0, frame=schema)):
                    return True
                self._schemas.add(item.schema)
            if not self._try_to_send(Data(spool=self._id, seq=item.seq, frame=item.data)):
                return True
            self._page.popleft()
            self._sent = item.seq
            self._in_flight.append(item)
        return False

    def _turn_page(self) -> bool:
        self._page.extend(self._spool.page(self._sent, self._terms.window, _PAGE_BYTES, self._id))
        return bool(self._page)

    def _listen(self) -> bool:
        """Take what has arrived; True where some of it settled records."""
        before, acked = self.confirmed, 0
        try:
            for message in self._received():
                acked = max(acked, self._heard(message))
        finally:
            if acked:
                self._confirm(acked)
        return self.confirmed > before

    def _heard(self, message: Message) -> int:
        """The number up to which `message` confirms; 0 for none."""
        if isinstance(message, Bye):
            raise self._over(f"the aggregator ended the session: {message.reason or 'no reason given'}")
        if not isinstance(message, (Ack, Nack)):
            raise self._strange(f"it sent {message.op.upper()} in the middle of a session")
        if message.seq > self._sent:
            raise self._strange(
                f"its {message.op.upper()} is for record {message.seq}, the last one sent is {self._sent}"
            )
        if isinstance(message, Ack):
            self._credit = message.credit
            return message.seq
        item = next((one for one in self._in_flight if one.seq == message.seq), None)
        if item is None:
            return 0  # settled already
        if not message.fatal:
            raise self._over(f"the aggregator can't take records now: {message.reason or 'no reason given'}")
        self._in_flight.remove(item)
        self._give_up(item, f"the aggregator refused it: {message.reason or 'no reason given'}")
        return 0

    def _confirm(self, seq: int) -> None:
        self._sent = max(self._sent, seq)
        self._spool.confirmed(seq, self._id)
        while self._in_flight and self._in_flight[0].seq <= seq:
            self._in_flight.popleft()
            self.confirmed += 1

    def _give_up(self, item: Item, reason: str) -> None:
        # Kept first: should this process die in between, the record is refused once more.
        self._terms.give_up(item, self._spool.schema(item.schema, self._id) if item.schema else b"", reason)
        self._spool.give_up(item, self._id)
        self.confirmed += 1

    # ---- the socket

    def _try_to_send(self, message: Message) -> bool:
        try:
            self._socket.send_multipart(encode(message), zmq.DONTWAIT)
        except zmq.Again:
            return False
        return True

    def _received(self) -> Iterator[Message]:
        """What has arrived; a peer that floods us is listened to in turns."""
        for _ in range(_MOST_AT_ONCE):
            try:
                parts = self._socket.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return
            try:
                yield decode(parts, where=self.endpoint)
            except WireError as error:
                raise self._strange(error.what) from None

    def _wait(self, events: int) -> None:
        self._socket.poll(_LOOK_AROUND_MS, events)

    def _check_connection(self) -> None:
        try:
            self._connection.check()
        except Refused as refused:
            raise SessionOver(
                refused.reason, remedy=refused.remedy, welcomed=self._welcomed, strange=refused.final
            ) from None

    def _check_deadline(self, since: float, timeout: float, missed: str) -> None:
        left = self._terms.time_left()
        if left <= 0:
            raise self._over("the agent stops")
        if left < float("inf") and not self._welcomed:
            timeout = min(timeout, _PATIENCE_AT_THE_END)
        if time.monotonic() - since > timeout:
            raise self._over(f"{missed} within {timeout:g} s", _SILENT)

    def _over(self, reason: str, remedy: str = _BUSY) -> SessionOver:
        return SessionOver(reason, remedy=remedy, welcomed=self._welcomed)

    def _strange(self, reason: str, remedy: str = _STRANGER) -> SessionOver:
        return SessionOver(reason, remedy=remedy, welcomed=self._welcomed, strange=True)

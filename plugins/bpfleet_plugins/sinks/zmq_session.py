"""One conversation with one aggregator over one socket: HELLO, WELCOME, DATA and ACKs."""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Iterator

import zmq

from bpfleet import Frame, WireError
from bpfleet.wire.messages import Ack, Bye, Data, Hello, Message, Nack, Welcome, decode, encode
from bpfleet_plugins.sinks.zmq_spool import Item, Spool

__all__ = ["GiveUp", "Session", "SessionOver"]

GiveUp = Callable[[Item, str], None]
"""Takes a record that can't be delivered, with the reason."""

_SILENT = "does an aggregator listen there, and can this host reach it?"
_STRANGER = "is that a bpfleet aggregator, of a release that fits this agent's?"
_BUSY = "see the aggregator's own log; the records wait here and are sent again"

_LOOK_AROUND_MS = 100
_PATIENCE_AT_THE_END = 1.0
_BYE_LINGER_MS = 200
_MOST_AT_ONCE = 1000
_LARGEST_ANSWER = 64 << 10


class SessionOver(Exception):
    """Raised when a session has come to its end before everything was confirmed.

    `welcomed` says whether there was a WELCOME, `strange` whether the peer does not speak our protocol.
    """

    def __init__(
        self, reason: str, *, remedy: str = _BUSY, welcomed: bool = False, strange: bool = False
    ) -> None:
        super().__init__(reason)
        self.reason, self.remedy, self.welcomed, self.strange = reason, remedy, welcomed, strange


class Session:
    """A socket that has said HELLO and was welcomed.

    Raises SessionOver where no WELCOME comes within `hello_timeout` seconds or it refuses. `window` is the
    most records on their way at once; after `ack_timeout` seconds without any progress the peer counts as
    hung.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        endpoint: str,
        spool: Spool,
        agent: str,
        *,
        window: int,
        hello_timeout: float,
        ack_timeout: float,
        stopping: Callable[[], bool],
    ) -> None:
        self.endpoint = endpoint
        self._spool = spool
        self._window, self._ack_timeout, self._stopping = window, ack_timeout, stopping
        self._schemas: set[bytes] = set()
        self._welcomed = False
        self._highest = self._credit = self._max_size = 0
        self._in_flight: deque[Item] = deque()
        self._socket = _connected(context, endpoint, window)
        try:
            self._greet(agent, hello_timeout)
        except BaseException:
            self.close()
            raise

    def deliver(self, give_up: GiveUp) -> None:
        """Send what is pending in the spool; return once all of it is confirmed or given up."""
        waiting = deque(self._spool.pending())
        progress = time.monotonic()
        while waiting or self._in_flight:
            idle = not self._in_flight
            blocked = self._send(waiting, give_up)
            before = len(self._in_flight)
            if idle and before:
                progress = time.monotonic()
            for message in self._received():
                self._heard(message, give_up)
            if len(self._in_flight) < before:
                progress = time.monotonic()
            elif waiting or self._in_flight:
                self._check_deadline(progress, self._ack_timeout, "no ACK")
                self._wait(zmq.POLLIN | (zmq.POLLOUT if blocked else 0))

    def close(self) -> None:
        """Say BYE where anybody listens, and close."""
        linger = 0
        if self._welcomed and not self._socket.closed:
            linger = _BYE_LINGER_MS if self._try_to_send(Bye()) else 0
        self._socket.close(linger=linger)

    # ---- HELLO and WELCOME

    def _greet(self, agent: str, timeout: float) -> None:
        spool = self._spool
        hello = Hello(agent=agent, spool=spool.id, first=spool.first, last=spool.last)
        began, said = time.monotonic(), False
        while True:
            said = said or self._try_to_send(hello)
            for message in self._received():
                self._take_welcome(message)
                return
            self._check_deadline(began, timeout, "no WELCOME" if said else "no connection")
            self._wait(zmq.POLLIN if said else zmq.POLLIN | zmq.POLLOUT)

    def _take_welcome(self, message: Message) -> None:
        if isinstance(message, Bye):
            raise self._over(f"the aggregator ended the session: {message.reason or 'no reason given'}")
        if not isinstance(message, Welcome):
            raise self._strange(f"it answered HELLO with {message.op.upper()}")
        if message.refused:
            raise self._over(f"the aggregator refuses this agent: {message.refused}")
        if message.durable > self._spool.last:
            raise self._strange(
                f"it claims records up to {message.durable} of this spool, whose last is {self._spool.last}"
            )
        self._welcomed = True
        self._highest = message.durable
        self._credit, self._max_size = message.credit, message.max_size
        self._spool.confirmed(message.durable)

    # ---- DATA and ACK

    def _send(self, waiting: deque[Item], give_up: GiveUp) -> bool:
        """Send while there is credit; True where the socket takes no more for now."""
        while waiting and len(self._in_flight) < min(self._credit, self._window):
            item = waiting[0]
            schema = self._missing_schema(item.frame)
            size = max(len(item.data), len(schema or b""))
            if size > self._max_size:
                waiting.popleft()
                self._spool.give_up(item.seq)
                give_up(item, f"it has {size} bytes, the aggregator takes {self._max_size}")
                continue
            if schema is not None:
                if not self._try_to_send(Data(spool=self._spool.id, seq=0, frame=schema)):
                    return True
                self._schemas.add(_content(item.frame))
            if not self._try_to_send(Data(spool=self._spool.id, seq=item.seq, frame=item.data)):
                return True
            self._highest = max(self._highest, item.seq)
            self._in_flight.append(waiting.popleft())
        return False

    def _missing_schema(self, frame: Frame) -> bytes | memoryview | None:
        """The schema that `frame` needs, as it is sent, where this session has not sent it yet."""
        if frame.schema is None or _content(frame) in self._schemas:
            return None
        return self._spool.packed(frame.schema)

    def _heard(self, message: Message, give_up: GiveUp) -> None:
        if isinstance(message, Bye):
            raise self._over(f"the aggregator ended the session: {message.reason or 'no reason given'}")
        if not isinstance(message, (Ack, Nack)):
            raise self._strange(f"it sent {message.op.upper()} in the middle of a session")
        if message.seq > self._highest:
            raise self._strange(
                f"its {message.op.upper()} is for record {message.seq}, the last one sent is {self._highest}"
            )
        if isinstance(message, Ack):
            self._credit = message.credit
            self._spool.confirmed(message.seq)
            while self._in_flight and self._in_flight[0].seq <= message.seq:
                self._in_flight.popleft()
            return
        item = next((one for one in self._in_flight if one.seq == message.seq), None)
        if item is None:
            return  # settled already
        if not message.fatal:
            raise self._over(f"the aggregator can't take records now: {message.reason or 'no reason given'}")
        self._in_flight.remove(item)
        self._spool.give_up(item.seq)
        give_up(item, f"the aggregator refused it: {message.reason or 'no reason given'}")

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

    def _check_deadline(self, since: float, timeout: float, missed: str) -> None:
        patience = min(timeout, _PATIENCE_AT_THE_END) if self._stopping() else timeout
        if time.monotonic() - since > patience:
            raise self._over(f"{missed} within {patience:g} s", _SILENT)

    def _over(self, reason: str, remedy: str = _BUSY) -> SessionOver:
        return SessionOver(reason, remedy=remedy, welcomed=self._welcomed)

    def _strange(self, reason: str) -> SessionOver:
        return SessionOver(reason, remedy=_STRANGER, welcomed=self._welcomed, strange=True)


def _content(frame: Frame) -> bytes:
    return b"" if frame.schema is None else bytes(frame.schema.data)


def _connected(context: zmq.Context[zmq.Socket[bytes]], endpoint: str, window: int) -> zmq.Socket[bytes]:
    """A DEALER that is connecting. It has no routing id: a second peer of one id would be ignored."""
    socket = context.socket(zmq.DEALER)
    socket.linger = 0
    # Nothing waits in a pipe that has no connection: what is not acknowledged is ours to send again.
    socket.immediate = True
    socket.sndhwm = window
    socket.maxmsgsize = _LARGEST_ANSWER
    socket.ipv6 = True
    # Its own for each agent, with the maximum left at 0: setting that would switch libzmq's jitter off.
    socket.reconnect_ivl = random.randint(100, 1000)
    try:
        socket.connect(endpoint)
    except zmq.ZMQError as error:
        socket.close(linger=0)
        raise SessionOver(f"can't connect: {error.strerror}", remedy=_SILENT, strange=True) from None
    return socket

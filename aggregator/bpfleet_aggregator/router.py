"""The ROUTER socket that agents connect to: its options, receiving and sending."""

from __future__ import annotations

import resource
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass

import zmq

from bpfleet.errors import ConfigError
from bpfleet.wire.messages import Message, encode
from bpfleet_aggregator.zap import DOMAIN

__all__ = ["MOST_AT_ONCE", "Arrived", "Router", "raise_open_files"]

_BACKLOG = 4096
MOST_AT_ONCE = 1000
"""Messages that are taken before answers have their turn."""
_ANSWERS = 64
_HEARTBEAT_MS = 30_000
_HEAD_ROOM = 64 << 10
_WANTED_FILES = 65_536
_BYE_LINGER_MS = 1000
_MOST_PARTS = 3
_NOW, _MORE_FOLLOWS, _RCVMORE = int(zmq.DONTWAIT), int(zmq.DONTWAIT | zmq.SNDMORE), int(zmq.RCVMORE)
"""As plain numbers: to combine two flags of an enum takes longer than to send."""


@dataclass(frozen=True, slots=True)
class Arrived:
    """One message."""

    peer: bytes
    parts: Sequence[bytes]
    frame: zmq.Frame | None = None
    """What ZeroMQ knows of the connection; None where the peer was known already."""

    @property
    def key(self) -> str:
        """The peer's public key; "" without CURVE."""
        return _told(self.frame, "User-Id")

    @property
    def address(self) -> str:
        """Its IP address; "" where it has none."""
        return _told(self.frame, "Peer-Address")


class Router:
    """One socket on all endpoints. For one thread."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], *, window: int, max_size: int) -> None:
        self.socket = context.socket(zmq.ROUTER)
        self.socket.linger = 0
        # To send to a peer that has gone is an error, not silence.
        self.socket.router_mandatory = True
        self.socket.rcvhwm = window
        self.socket.sndhwm = _ANSWERS
        # Beyond it libzmq ends the connection; up to it the record is refused with words.
        self.socket.maxmsgsize = max_size + _HEAD_ROOM
        self.socket.backlog = _BACKLOG
        # Who has vanished without closing is found by ZeroMQ, however rarely an agent speaks.
        self.socket.heartbeat_ivl = _HEARTBEAT_MS
        self.socket.heartbeat_timeout = 2 * _HEARTBEAT_MS
        self.endpoints: list[str] = []
        self._poller = zmq.Poller()
        self._poller.register(self.socket, zmq.POLLIN)

    def encrypt(self, secret: str) -> None:
        """Speak CURVE with that key, and only with whom the gatekeeper admits; before `bind`."""
        self.socket.curve_server = True
        self.socket.curve_secretkey = secret.encode()
        self.socket.zap_domain = DOMAIN
        # Without it, and without a gatekeeper, every key would be admitted.
        self.socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)

    def bind(self, endpoints: Sequence[str]) -> None:
        """Begin to listen; raises ConfigError."""
        for endpoint in endpoints:
            # Else an IPv4 address is shown, and logged for each agent, as ::ffff:….
            self.socket.ipv6 = "[" in endpoint
            try:
                self.socket.bind(endpoint)
            except zmq.ZMQError as error:
                raise ConfigError(
                    f"can't listen: {error.strerror}",
                    where=f"[aggregator] bind, {endpoint}",
                    remedy="is the address one of this host's, and the port free?",
                ) from None
            self.endpoints.append(self.socket.getsockopt_string(zmq.LAST_ENDPOINT))

    def listen(self, endpoint: str, fd: int) -> None:
        """Listen on a socket that somebody else has bound; `endpoint` only says of which kind it is."""
        self.socket.setsockopt(zmq.USE_FD, fd)
        self.socket.bind(endpoint)

    def wake_on(self, fd: int) -> None:
        """Let `wait` end when `fd` can be read, too."""
        self._poller.register(fd, zmq.POLLIN)

    def start(self) -> None:
        """Nothing more is needed."""

    def keys_changed(self) -> None:
        """The gatekeeper of this process knows."""

    def wait(self, milliseconds: int) -> None:
        """Until there is something to do, or the time is over."""
        self._poller.poll(milliseconds)

    def received(self, known: Container[bytes]) -> Iterator[Arrived]:
        """What has arrived, at most a thousand messages, so that answers have their turn."""
        receive = self.socket.recv
        for _ in range(MOST_AT_ONCE):
            try:
                peer = receive(_NOW)
            except zmq.Again:
                return
            if peer in known:
                yield Arrived(peer, self._rest([]))
                continue
            frame = self.socket.recv(copy=False)
            parts = [frame.bytes] if not frame.more else self._rest([frame.bytes])
            yield Arrived(peer, parts, frame)

    def _rest(self, parts: list[bytes]) -> list[bytes]:
        """The parts that are left; of a message with too many, the first ones."""
        receive, more = self.socket.recv, True
        while more:
            part = receive()
            if len(parts) < _MOST_PARTS:
                parts.append(part)
            more = bool(self.socket.getsockopt(_RCVMORE))
        return parts

    def send(self, peer: bytes, message: Message) -> bool:
        """Send a message of one part; False where the peer has gone.

        One that does not read loses it, misses the answer, and says HELLO again.
        """
        (head,) = encode(message)
        return self.send_head(peer, head)

    def send_head(self, peer: bytes, head: bytes | memoryview) -> bool:
        """The same for a message that is encoded."""
        try:
            self.socket.send(peer, _MORE_FOLLOWS)
            self.socket.send(head, _NOW)
        except zmq.Again:
            return True
        except zmq.ZMQError as error:
            if error.errno == zmq.EHOSTUNREACH:
                return False
            raise
        return True

    def close(self) -> None:
        """Close; what was said last still goes out, for a second."""
        self.socket.close(linger=_BYE_LINGER_MS)


def _told(frame: zmq.Frame | None, name: str) -> str:
    if frame is None:
        return ""
    try:
        return str(frame.get(name))
    except zmq.ZMQError:
        return ""


def raise_open_files() -> None:
    """As many open files as we may have: each agent takes one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(soft, _WANTED_FILES)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(wanted, hard)))
    except (ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

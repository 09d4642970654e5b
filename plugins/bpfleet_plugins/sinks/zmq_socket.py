"""One DEALER socket to one aggregator: its options, its keys, and why a connection does not come about."""

from __future__ import annotations

import random
import struct

import zmq

from bpfleet.keys import KeyPair

__all__ = ["Connection", "Refused"]

_LARGEST_ANSWER = 64 << 10
_EVENT = struct.Struct("=HI")
_WATCHED = (
    zmq.EVENT_DISCONNECTED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)

Socket = zmq.Socket[bytes]


class Refused(Exception):
    """Raised where the other end refuses the connection: the reason, the remedy, whether it is final."""

    def __init__(self, reason: str, remedy: str, *, final: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.remedy, self.final = reason, remedy, final


class Connection:
    """A socket that is connecting, and what is heard of its handshakes.

    `server_key` is the aggregator's public key, None for a connection without CURVE. It has no routing id: a
    second peer of one id would be ignored. Raises zmq.ZMQError where the address makes no sense.
    """

    def __init__(
        self,
        context: zmq.Context[Socket],
        endpoint: str,
        *,
        window: int,
        pair: KeyPair | None,
        server_key: str | None,
    ) -> None:
        self._curve = pair if server_key is not None else None
        self.socket = socket = context.socket(zmq.DEALER)
        self._monitor: Socket | None = None
        try:
            socket.linger = 0
            # Nothing waits in a pipe that has no connection: what is not acknowledged is ours to send again.
            socket.immediate = True
            socket.sndhwm = window
            socket.maxmsgsize = _LARGEST_ANSWER
            socket.ipv6 = True
            # Its own for each agent. The maximum stays 0: setting it would switch libzmq's jitter off.
            socket.reconnect_ivl = random.randint(100, 1000)
            if pair is not None and server_key is not None:
                socket.curve_serverkey = server_key.encode()
                socket.curve_publickey, socket.curve_secretkey = pair.public.encode(), pair.secret.encode()
            self._monitor = socket.get_monitor_socket(_WATCHED)
            socket.connect(endpoint)
        except BaseException:
            self.close()
            raise

    def check(self) -> None:
        """Look at what has happened to it; raises Refused where it will not come about, or was lost."""
        while self._monitor is not None:
            try:
                head, _ = self._monitor.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return
            event, value = _EVENT.unpack(head)
            self._happened(event, value)

    def close(self, linger: int = 0) -> None:
        """Close; what is sent already has `linger` ms to go."""
        if self._monitor is not None:
            self.socket.disable_monitor()
            self._monitor.close(linger=0)
            self._monitor = None
        self.socket.close(linger=linger)

    def _happened(self, event: int, value: int) -> None:
        if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            if value == 400 and self._curve is not None:
                raise Refused(
                    "the aggregator does not admit this agent's key",
                    f"add this public key to those that the aggregator admits: {self._curve.public}",
                    final=True,
                )
            raise Refused(
                f"the aggregator refuses the connection (status {value})", "see the aggregator's own log"
            )
        if event in (zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL, zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL):
            raise self._no_handshake()
        if event == zmq.EVENT_DISCONNECTED:
            # Only after a handshake: before it, what was not accepted is tried again by libzmq.
            raise Refused("the connection was lost", "it is made again; see the aggregator's own log")

    def _no_handshake(self) -> Refused:
        if self._curve is not None:
            return Refused(
                "the encrypted connection does not come about",
                "is server_key the public key of that aggregator, and does it use CURVE?",
            )
        return Refused(
            "the connection does not come about",
            "is that a bpfleet aggregator? one that wants CURVE needs server_key in this sink's table",
        )

"""An agent's end of the protocol by hand: one message at a time, and what is answered."""

from __future__ import annotations

import time
from contextlib import suppress

import zmq

from bpfleet import Frame
from bpfleet.wire.messages import Data, Hello, Message, Welcome, decode, encode
from sample_records import AGENT

__all__ = ["Client", "hello", "welcomed"]


class Client:
    """A DEALER, with a key where the aggregator wants one, and what it was answered."""

    def __init__(self, endpoint: str, keys: tuple[bytes, bytes] | None = None, server: str = "") -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self._context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.ipv6 = "[" in endpoint
        if keys is not None:
            self.socket.curve_publickey, self.socket.curve_secretkey = keys
            self.socket.curve_serverkey = server.encode()
        self.socket.connect(endpoint)

    def ask(self, message: Message, milliseconds: int = 10_000) -> Message | None:
        """What is answered; None for nothing in time."""
        # One that was not let in has nowhere to send to.
        with suppress(zmq.Again):
            self.socket.send_multipart(encode(message), zmq.DONTWAIT)
        return self.answer(milliseconds)

    def answer(self, milliseconds: int = 10_000) -> Message | None:
        """The next message; None for nothing in time."""
        if not self.socket.poll(milliseconds):
            return None
        return decode(self.socket.recv_multipart())

    def answer_of(self, kind: type[Message], seconds: float = 30.0) -> Message:
        """The next message of that kind, those before it left out."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            message = self.answer(int(1000 * max(0.0, end - time.monotonic())))
            if isinstance(message, kind):
                return message
        raise AssertionError(f"no {kind.__name__} came")

    def send(self, seq: int, frame: Frame | bytes, spool: str = "s1") -> None:
        """DATA; a snapshot's schema goes before it."""
        if isinstance(frame, Frame):
            if frame.schema is not None:
                self.socket.send_multipart(encode(Data(spool=spool, seq=0, frame=frame.schema.data)))
            frame = bytes(frame.data)
        self.socket.send_multipart(encode(Data(spool=spool, seq=seq, frame=frame)))

    def close(self) -> None:
        """Without a word."""
        self.socket.close(linger=0)
        self._context.term()


def hello(agent: str = AGENT, spool: str = "s1", last: int = 0) -> Hello:
    """HELLO of a spool that has given numbers up to `last`."""
    return Hello(agent=agent, spool=spool, first=1, last=last)


def welcomed(answer: Message | None) -> bool:
    """Whether it is a WELCOME that admits."""
    return isinstance(answer, Welcome) and not answer.refused

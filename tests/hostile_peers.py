"""What strangers, and broken or evil agents, may send to an aggregator on this host.

    python hostile_peers.py PORT AGENT SPOOL [SERVER-KEY PUBLIC SECRET]

AGENT and SPOOL are those of an agent that lives; the keys are admitted, and not that agent's. Prints how
often each thing was refused, or ended the session, as JSON. Ends with an AssertionError where one was not.
"""

from __future__ import annotations

import json
import os
import sys
import time
import uuid
from collections import Counter
from contextlib import suppress

import zmq
import zstandard

from bpfleet.wire.messages import Bye, Data, Hello, Message, Nack, Welcome, decode, encode

EVIL = "evil"
PATIENCE = 60.0
"""The aggregator may just have been killed, or its store may be away."""

refused: Counter[str] = Counter()


def bad_frames() -> dict[str, bytes]:
    """Records that no decoder may take."""
    compressor = zstandard.ZstdCompressor(level=19)
    # Its header says more than the limit; or says nothing.
    bomb = compressor.compress(bytes(64 << 20))
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(64 << 20))
    return {
        "empty frame": b"",
        "random bytes": os.urandom(500),
        "decompression bomb": bomb,
        "decompression bomb without a size": unsized,
        "endless arrays": b"\xdd\xff\xff\xff\xff" * 3,
        "another version": b"\x81\xa1v\x02",
        "oversized frame": os.urandom(4 << 20 | 1),
    }


class Peer:
    """A DEALER on a connection of its own."""

    def __init__(self, port: int, keys: list[str]) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.linger, self.socket.immediate = 0, True
        if keys:
            self.socket.curve_serverkey, self.socket.curve_publickey, self.socket.curve_secretkey = (
                key.encode() for key in keys
            )
        self.socket.connect(f"tcp://127.0.0.1:{port}")

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *error: object) -> None:
        self.socket.close(linger=0)
        self.context.term()

    def send(self, parts: list[bytes]) -> None:
        """Once the connection is there."""
        assert self.socket.poll(int(PATIENCE * 1000), zmq.POLLOUT), "no connection"
        self.socket.send_multipart(parts)

    def hear(self, milliseconds: int = 10_000) -> Message | None:
        """The next message; None for nothing in time."""
        if not self.socket.poll(milliseconds):
            return None
        return decode(self.socket.recv_multipart())

    def hello(self, agent: str, spool: str, last: int) -> Welcome:
        """Say it until it is answered: a store that is away is "not now"."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            self.send(encode(Hello(agent=agent, spool=spool, first=1, last=last)))
            answer = self.hear(2000)
            if isinstance(answer, Welcome):
                return answer
            time.sleep(0.1)
        raise AssertionError("never welcomed")


def send_bad_records(port: int, keys: list[str]) -> None:
    """An agent that is admitted, and sends nothing good: each is refused for good."""
    frames = bad_frames()
    names = dict(enumerate(frames, 1))
    with Peer(port, keys) as peer:
        spool = str(uuid.uuid4())
        while True:
            assert not peer.hello(EVIL, spool, len(frames)).refused
            missing = dict(names)
            for seq, name in names.items():
                peer.send(encode(Data(spool=spool, seq=seq, frame=frames[name])))
            while missing:
                answer = peer.hear()
                if not isinstance(answer, Nack):
                    break
                assert answer.fatal, answer
                refused[missing.pop(answer.seq)] += 1
            if not missing:
                return
            # Begin anew, as an agent would whose aggregator was away: refusals are of one session.
            refused.subtract(names[seq] for seq in names.keys() - missing.keys())
            time.sleep(0.2)


def send_no_protocol(port: int, keys: list[str]) -> None:
    """Bytes that are no message, and messages out of turn: BYE."""
    messages = {
        "random message": [os.urandom(300)],
        "message of many parts": [b"x"] * 50,
        "data without hello": encode(Data(spool="evil", seq=1, frame=b"")),
    }
    for name, parts in messages.items():
        with Peer(port, keys) as peer:
            peer.send(parts)
            assert isinstance(peer.hear(), Bye), name
            refused[name] += 1


def send_oversized_message(port: int, keys: list[str]) -> None:
    """Beyond what the socket takes at all: libzmq ends the connection, and with it the session."""
    with Peer(port, keys) as peer:
        assert not peer.hello(EVIL, str(uuid.uuid4()), 1).refused
        peer.send([bytes(6 << 20)])
        time.sleep(0.3)
        peer.send(encode(Data(spool="evil", seq=1, frame=b"")))
        assert isinstance(peer.hear(), Bye), "the session goes on"
        refused["oversized message"] += 1


def be_kept_out(port: int, keys: list[str]) -> None:
    """A key that nobody has listed, and no key at all: no connection."""
    public, secret = (key.decode() for key in zmq.curve_keypair())
    for name, some in {"unknown key": [keys[0], public, secret], "no key": []}.items():
        with Peer(port, some) as peer:
            let_in = False
            # Without a key ZeroMQ's handshake fails over and over: the pipe may be there for a moment.
            with suppress(zmq.Again):
                if peer.socket.poll(500, zmq.POLLOUT):
                    hello = Hello(agent=EVIL, spool="evil", first=1, last=1)
                    peer.socket.send_multipart(encode(hello), zmq.DONTWAIT)
                    let_in = peer.hear(1000) is not None
            assert not let_in, name
            refused[name] += 1


def be_another(port: int, agent: str, spool: str, keys: list[str]) -> None:
    """Speak for an agent that lives, by its id and its spool.

    Where keys are asked for, this one belongs to another; without them the newer session wins, and the
    agent comes back.
    """
    with Peer(port, keys) as peer:
        welcome = peer.hello(agent, spool, 1 << 40)
        if keys:
            assert "belongs to" in welcome.refused, welcome
            refused["wrong key"] += 1
        else:
            assert not welcome.refused, welcome
            refused["duplicate agent id"] += 1


def main(port: int, agent: str, spool: str, keys: list[str]) -> None:
    send_bad_records(port, keys)
    send_no_protocol(port, keys)
    send_oversized_message(port, keys)
    if keys:
        be_kept_out(port, keys)
    be_another(port, agent, spool, keys)
    print(json.dumps(refused))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4:])

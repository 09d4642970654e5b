"""What strangers, and broken or evil agents, may send to an aggregator on this host.

    python hostile_peers.py PORT AGENT [SERVER-KEY PUBLIC SECRET]

Prints how many records were refused for good.
"""

from __future__ import annotations

import os
import sys
import time
import uuid
from contextlib import suppress

import zmq
import zstandard

from bpfleet.wire.messages import Data, Hello, Nack, Welcome, decode, encode

EVIL = "evil"


def bad_frames() -> list[bytes]:
    """Records that no decoder may take."""
    compressor = zstandard.ZstdCompressor(level=19)
    # Its header says more than the limit; or says little, and there is more; or says nothing.
    bomb = compressor.compress(bytes(64 << 20))
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(64 << 20))
    return [b"", os.urandom(500), bomb, unsized, b"\xdd\xff\xff\xff\xff" * 3, b"\x81\xa1v\x02"]


def be_evil_inside(context: zmq.Context[zmq.Socket[bytes]], port: int, keys: list[str]) -> int:
    """An agent that is admitted, and sends nothing good; returns how many records were refused for good.

    Raises AssertionError where one is refused for now only; that none is stored, the oracle judges. An
    aggregator that is not there refuses none.
    """
    socket = context.socket(zmq.DEALER)
    socket.linger, socket.immediate = 0, True
    if keys:
        socket.curve_serverkey, socket.curve_publickey, socket.curve_secretkey = (
            key.encode() for key in keys
        )
    socket.connect(f"tcp://127.0.0.1:{port}")
    refused, frames = set(), bad_frames()
    try:
        if not socket.poll(3000, zmq.POLLOUT):
            return 0
        spool = str(uuid.uuid4())
        socket.send_multipart(encode(Hello(agent=EVIL, spool=spool, first=1, last=len(frames))), zmq.DONTWAIT)
        while socket.poll(3000):
            message = decode(socket.recv_multipart())
            if isinstance(message, Welcome):
                for seq, frame in enumerate(frames, 1):
                    socket.send_multipart(encode(Data(spool=spool, seq=seq, frame=frame)), zmq.DONTWAIT)
            elif isinstance(message, Nack):
                assert message.fatal, message
                refused.add(message.seq)
                if len(refused) == len(frames):
                    break
    except zmq.Again:
        pass
    finally:
        socket.close(linger=0)
    return len(refused)


def be_hostile(port: int, agent: str, keys: list[str]) -> None:
    """What strangers, and broken or evil agents, may send."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    print(be_evil_inside(context, port, keys))
    endpoint = f"tcp://127.0.0.1:{port}"
    server_key = keys[0] if keys else ""
    hello = encode(Hello(agent=agent if not server_key else EVIL, spool="evil", first=1, last=9))
    frames = [*bad_frames(), bytes(4 << 20 | 1)]
    messages = [
        [os.urandom(300)],
        [b"x"] * 50,
        [bytes(6 << 20)],
        hello,
        *(encode(Data(spool="evil", seq=n, frame=frame)) for n, frame in enumerate(frames, 1)),
        encode(Data(spool="other", seq=9, frame=b"")),
    ]
    sockets = []
    for curve in [True, False] if server_key else [False]:
        socket = context.socket(zmq.DEALER)
        socket.linger = 0
        if curve:
            # A key that nobody has listed.
            socket.curve_publickey, socket.curve_secretkey = zmq.curve_keypair()
            socket.curve_serverkey = server_key.encode()
        socket.connect(endpoint)
        sockets.append(socket)
    for message in messages:
        for socket in sockets:
            # One that was not let in has nowhere to send to.
            with suppress(zmq.Again):
                socket.send_multipart(message, zmq.DONTWAIT)
        time.sleep(0.02)
    for socket in sockets:
        socket.close(linger=200)
    context.term()


if __name__ == "__main__":
    be_hostile(int(sys.argv[1]), sys.argv[2], sys.argv[3:])

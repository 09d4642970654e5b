"""Messages and fds between processes, over real sockets."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator

import pytest

from bpfleet.ipc import Channel, ChannelClosed, close_all


@pytest.fixture
def pair() -> Iterator[tuple[Channel, Channel]]:
    ours, theirs = Channel.pair()
    other = Channel(theirs, timeout=5)
    yield ours, other
    ours.close()
    other.close()


def test_a_message_comes_as_it_was_sent(pair: tuple[Channel, Channel]) -> None:
    message = {"op": "load", "text": "ä" * 1000, "raw": b"\0\xff", "n": -1, "list": [1, {"a": None}]}
    pair[0].send(message)
    assert pair[1].receive() == (message, [])


@pytest.mark.parametrize("count", [1, 199, 200, 201, 450])
def test_any_number_of_fds_comes_with_it(pair: tuple[Channel, Channel], count: int) -> None:
    files = [os.memfd_create(f"f{number}") for number in range(count)]
    for number, fd in enumerate(files):
        os.write(fd, str(number).encode())
    sender = threading.Thread(target=pair[0].send, args=({"op": "loaded"}, files))
    sender.start()
    message, received = pair[1].receive()
    sender.join()
    assert message == {"op": "loaded"}
    assert [os.pread(fd, 10, 0) for fd in received] == [str(number).encode() for number in range(count)]
    assert not any(os.get_inheritable(fd) for fd in received)
    close_all(files + received)


def test_messages_with_and_without_fds_keep_their_order(pair: tuple[Channel, Channel]) -> None:
    fd = os.memfd_create("f")
    for number in range(20):
        pair[0].send({"n": number}, [fd] if number % 2 else [])
    for number in range(20):
        message, fds = pair[1].receive()
        assert message == {"n": number}
        assert len(fds) == number % 2
        close_all(fds)
    os.close(fd)


def test_a_message_larger_than_the_sockets_buffer(pair: tuple[Channel, Channel]) -> None:
    message = {"log": "x" * (5 << 20)}
    sender = threading.Thread(target=pair[0].send, args=(message,))
    sender.start()
    assert pair[1].receive()[0] == message
    sender.join()


def test_a_peer_that_has_gone_is_told(pair: tuple[Channel, Channel]) -> None:
    pair[0].close()
    with pytest.raises(ChannelClosed):
        pair[1].receive()
    with pytest.raises(ChannelClosed):
        pair[1].send({"log": "x" * (5 << 20)})


@pytest.mark.parametrize(
    "raw",
    [
        b"\xff\xff\xff\xff\0\0\0\0",
        b"\1\0\0\0\xff\xff\0\0\x80",
        b"\1\0\0\0\0\0\0\0\x90",
        b"\3\0\0\0\0\0\0\0\xc1\xc1\xc1",
        b"\1\0\0\0\1\0\0\0\x80x",
        b"\5\0\0",
    ],
    ids=["too long", "too many fds", "no map", "no msgpack", "no fd where one is due", "cut off"],
)
def test_what_no_peer_of_ours_says_ends_the_connection_and_nothing_else(raw: bytes) -> None:
    ours, theirs = socket.socketpair()
    channel = Channel(ours, timeout=5)
    theirs.sendall(raw)
    theirs.close()
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ChannelClosed):
        channel.receive()
    assert len(os.listdir("/proc/self/fd")) == before
    channel.close()


def test_a_peer_that_says_half_a_message_does_not_block_for_ever() -> None:
    ours, theirs = socket.socketpair()
    channel = Channel(ours, timeout=0.2)
    theirs.sendall(b"\5\0\0")
    with pytest.raises(ChannelClosed, match="timed out"):
        channel.receive()
    channel.close()
    theirs.close()

"""The zmq sink against a real ROUTER that keeps the protocol, dies, hangs or leaves: nothing is lost."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from aggregator_peer import Peer, Store
from bpfleet import SinkContext
from bpfleet.wire import encode_gap, encode_status
from bpfleet.wire.messages import Ack, Bye, Data, Hello, Message, Nack
from bpfleet_plugins.sinks.zmq import ZmqSink
from delivery_scenes import (
    Reply,
    Told,
    arrive,
    arrived,
    free_endpoint,
    hellos,
    some,
    spool_of,
    stored,
    wait_until,
)
from sample_records import AGENT, frame, gap, large_frame, status, with_schemas

Start = Callable[..., Peer]
Open = Callable[..., ZmqSink]


# ---- a peer that keeps the protocol


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_everything_that_is_written_arrives(
    start: Start, open_sink: Open, store: Store, compression: str
) -> None:
    sink = open_sink(start().endpoint, compression=compression)
    sink.write(with_schemas(some(1, 40)))
    sink.write([large_frame(41, 500), encode_gap(gap(42, 5, 7)), encode_status(status(42))])
    wait_until(lambda: len(arrived(store)) == 43)
    assert stored(store) == list(range(1, 43))
    assert {row[0] for row in store.rows()} == {AGENT}


def test_compressed_records_are_smaller_on_the_way(start: Start, open_sink: Open, store: Store) -> None:
    many = frame(1, {f"process{i}": i for i in range(500)})
    open_sink(start().endpoint, compression="zstd").write([many])
    arrive(store, [1])
    assert len(store.rows()[-1][3]) < len(many.data) / 2


def test_a_session_begins_with_hello_and_one_schema_and_ends_with_bye(
    start: Start, open_sink: Open, store: Store
) -> None:
    peer = start()
    sink = open_sink(peer.endpoint)
    sink.write(with_schemas(some(1, 3)))
    arrive(store, [1, 2, 3])
    sink.write(some(4, 5))
    arrive(store, [1, 2, 3, 4, 5])
    sink.close()
    wait_until(lambda: isinstance(peer.heard[-1], Bye))
    ops = [message.op for message in peer.heard]
    assert ops == ["hello", *["data"] * 6, "bye"]
    hello = peer.heard[0]
    assert isinstance(hello, Hello)
    assert (hello.agent, hello.first) == (AGENT, 1)
    assert hello.last >= 3
    assert [message.seq for message in peer.heard if isinstance(message, Data)] == [0, 1, 2, 3, 4, 5]


def test_a_schema_is_sent_again_in_every_session(start: Start, open_sink: Open, store: Store) -> None:
    peer = start()
    for seq in (1, 2):
        sink = open_sink(peer.endpoint)
        sink.write([frame(seq)])
        arrive(store, list(range(1, seq + 1)))
        sink.close()
    data = [message.seq for message in peer.heard if isinstance(message, Data)]
    assert data == [0, 1, 0, 2]


class Counting(Peer):
    """Acknowledges nothing until as many records wait as may be on their way, and looks whether more come."""

    credit = 3
    allowed = 3
    waiting = 0
    overrun = False

    def answer(self, identity: bytes, message: Message) -> list[Reply]:
        replies: list[Reply] = list(super().answer(identity, message))
        if not isinstance(message, Data) or not message.seq:
            return replies
        self.waiting += 1
        if self.waiting < self.allowed:
            return []
        self.waiting = 0
        self.overrun = self.overrun or bool(self.socket.poll(100))
        return replies


class Generous(Counting):
    credit = 1000


@pytest.mark.parametrize(("kind", "window"), [(Counting, 100), (Generous, 3)])
def test_a_backlog_is_paced_by_the_credit_and_the_window(
    start: Start, open_sink: Open, store: Store, kind: type[Counting], window: int
) -> None:
    endpoint = free_endpoint()
    open_sink(endpoint, window=window, ack_timeout="10s").write(some(1, 30))
    peer = start(kind, endpoint)
    arrive(store, list(range(1, 31)))
    assert isinstance(peer, Counting)
    assert not peer.overrun
    assert hellos(peer) == 1, "it never waited for a deadline"


def test_without_credit_nothing_is_sent_until_an_ack_gives_some(
    start: Start, open_sink: Open, store: Store
) -> None:
    class Late(Peer):
        credit = 0

        def answer(self, identity: bytes, message: Message) -> list[Reply]:
            replies: list[Reply] = list(super().answer(identity, message))
            if isinstance(message, Hello):
                assert not self.data()
                self.credit = 2
                replies.append(Ack(seq=0, credit=2))
            return replies

    peer = start(Late)
    open_sink(peer.endpoint).write(some(1, 10))
    arrive(store, list(range(1, 11)))
    assert hellos(peer) == 1


def test_credit_that_never_comes_is_waited_for_and_told(start: Start, open_sink: Open, told: Told) -> None:
    class Closed(Peer):
        credit = 0

    peer = start(Closed)
    open_sink(peer.endpoint, ack_timeout="300ms").write(some(1, 3))
    told.wait_for_error("no ACK within 0.3 s")
    assert not peer.data()


# ---- peers that die, hang or leave


def test_a_peer_restarted_in_mid_window_gets_only_what_it_lacks(
    start: Start, open_sink: Open, store: Store
) -> None:
    class Dying(Peer):
        def answer(self, identity: bytes, message: Message) -> list[Reply]:
            replies = super().answer(identity, message)
            if isinstance(message, Data) and message.seq == 5:
                self.stop_soon()  # durable, but the agent never hears of it
            return replies

    first = start(Dying)
    open_sink(first.endpoint, hello_timeout="10s").write(with_schemas(some(1, 20)))
    wait_until(lambda: store.mark(AGENT, spool_of(first)) == 5)
    first.stop()
    second = start(Peer, first.endpoint)
    arrive(store, list(range(1, 21)))
    assert second.repeats == 0
    assert min(data.seq for data in second.data()) == 6


def test_a_peer_killed_again_and_again_stores_every_record_once(open_sink: Open, store: Store) -> None:
    """A process of its own, ended with SIGKILL while records are on their way."""
    endpoint = free_endpoint()
    sink = open_sink(endpoint, hello_timeout="10s")
    sink.write([large_frame(seq, 30) for seq in range(1, 601)])
    path = os.pathsep.join([one for one in sys.path if one] + [str(Path(__file__).parent)])
    kills = 0
    while len(store.rows()) < 601 and kills < 60:
        with subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("aggregator_peer.py")), endpoint, str(store.path)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
        ) as peer:
            assert peer.stdout is not None
            peer.stdout.readline()
            end = time.monotonic() + (random.uniform(0.3, 0.8) if kills < 5 else 60.0)
            while time.monotonic() < end and len(stored(store)) < 600:
                time.sleep(0.05)
            peer.send_signal(signal.SIGKILL)
        kills += 1
    assert kills > 1
    assert stored(store) == list(range(1, 601))


def test_a_peer_that_never_acks_but_stores_is_asked_in_a_new_session(
    start: Start, open_sink: Open, store: Store
) -> None:
    class Silent(Peer):
        def answer(self, identity: bytes, message: Message) -> list[Reply]:
            return [reply for reply in super().answer(identity, message) if not isinstance(reply, Ack)]

    peer = start(Silent)
    open_sink(peer.endpoint, window=100).write(some(1, 8))
    wait_until(lambda: hellos(peer) == 2)
    assert stored(store) == list(range(1, 9))
    assert peer.repeats == 0, "WELCOME said what was durable: nothing was sent again"


class Hung(Peer):
    """Welcomes, takes records, and says no more."""

    def answer(self, identity: bytes, message: Message) -> list[Reply]:
        return super().answer(identity, message) if isinstance(message, Hello) else []


def test_a_peer_that_hangs_is_told_after_a_few_sessions(start: Start, open_sink: Open, told: Told) -> None:
    peer = start(Hung)
    open_sink(peer.endpoint).write(some(1, 3))
    error = told.wait_for_error("no ACK within")
    assert peer.endpoint in error.where
    assert hellos(peer) >= 3
    assert told.spool["records"] == 3


def test_a_place_where_nobody_listens_is_told_until_somebody_does(
    start: Start, open_sink: Open, told: Told, store: Store
) -> None:
    endpoint = free_endpoint()
    sink = open_sink(endpoint, hello_timeout="200ms")
    sink.write(some(1, 3))
    error = told.wait_for_error("no connection within")
    assert endpoint in error.where
    assert "does an aggregator listen there" in error.remedy
    sink.write(some(4, 5))
    start(Peer, endpoint)
    arrive(store, [1, 2, 3, 4, 5])
    wait_until(lambda: told.error is None)
    wait_until(lambda: told.spool["records"] == 0)


def test_a_peer_that_says_bye_is_greeted_again(start: Start, open_sink: Open, store: Store) -> None:
    class Leaving(Peer):
        def answer(self, identity: bytes, message: Message) -> list[Reply]:
            replies = super().answer(identity, message)
            if isinstance(message, Data) and message.seq in (3, 7) and self.repeats < 2:
                self.sessions.clear()
                return [Bye(reason="restarting")]
            return replies

    # The deadline is far away: only BYE can have ended the sessions.
    open_sink(start(Leaving).endpoint, ack_timeout="1h", window=2).write(some(1, 10))
    arrive(store, list(range(1, 11)))


def test_a_peer_restarted_while_the_sink_was_idle_hears_hello(
    start: Start, open_sink: Open, store: Store
) -> None:
    first = start()
    sink = open_sink(first.endpoint, ack_timeout="1h", hello_timeout="10s")
    sink.write(some(1, 3))
    arrive(store, [1, 2, 3])
    first.stop()
    second = start(Peer, first.endpoint)
    sink.write(some(4, 6))
    arrive(store, list(range(1, 7)))
    assert hellos(second) >= 1


def test_a_connection_that_is_lost_is_made_again_without_waiting_for_a_deadline(
    start: Start, open_sink: Open, store: Store
) -> None:
    first = start(Hung)
    open_sink(first.endpoint, ack_timeout="1h").write(some(1, 3))
    wait_until(lambda: len(first.data()) == 3)
    first.stop()
    start(Peer, first.endpoint)
    arrive(store, [1, 2, 3])


def test_each_sink_has_a_numbering_of_its_own(start: Start, open_sink: Open, around: SinkContext) -> None:
    peers = [start(), start()]
    for peer, name in zip(peers, ("a", "b"), strict=True):
        open_sink(peer.endpoint, surroundings=replace(around, name=name)).write(some(1, 2))
    assert spool_of(peers[0]) != spool_of(peers[1])
    wait_until(lambda: [data.seq for data in peers[1].data()] == [1, 2])


# ---- everything at once


@pytest.mark.parametrize("seed", range(6))
def test_whatever_a_peer_does_every_record_is_stored_once(
    start: Start, open_sink: Open, store: Store, seed: int
) -> None:
    """A peer that at random drops or repeats ACKs, says BYE, refuses for now; a sink that is reopened."""
    chance = random.Random(seed)

    class Fickle(Peer):
        troubles = 25

        def answer(self, identity: bytes, message: Message) -> list[Reply]:
            mood = chance.random() if self.troubles > 0 else 1.0
            if not isinstance(message, Data) or not message.seq or mood > 0.3:
                self.credit = chance.randint(1, 12)
                return super().answer(identity, message)
            self.troubles -= 1
            if mood < 0.15:
                self.sessions.clear()
            if mood < 0.05:
                return []
            if mood < 0.1:
                return [Bye(reason="chance")]
            if mood < 0.15:
                return [Nack(seq=message.seq, fatal=False, reason="chance")]
            replies = super().answer(identity, message)
            return replies * 3 if mood < 0.2 else []

    peer = start(Fickle)
    frames = some(1, 200)
    sink = open_sink(peer.endpoint, ack_timeout="150ms", window=6)
    at = 0
    while at < len(frames):
        size = chance.randint(1, 30)
        sink.write(with_schemas(frames[at : at + size]))
        at += size
        if chance.random() < 0.3:
            time.sleep(0.05)
            sink.close()
            sink = open_sink(peer.endpoint, ack_timeout="150ms", window=6)
    arrive(store, list(range(1, 201)))

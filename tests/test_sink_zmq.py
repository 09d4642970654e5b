"""The zmq sink against a real ROUTER: nothing is lost, repeats are recognised, whatever the peer does."""

from __future__ import annotations

import logging
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from aggregator_peer import Peer, Store
from bpfleet import Frame, SinkContext, SinkError
from bpfleet.errors import ConfigError
from bpfleet.settings import convert
from bpfleet.wire import Schema, Snapshot, encode_gap, encode_status, read_file
from bpfleet.wire.messages import Ack, Bye, Data, Hello, Message, Nack, Welcome
from bpfleet_plugins.sinks.zmq import ZmqSettings, ZmqSink, bpfleet_sinks
from sample_records import AGENT, Lost, context, decoded, frame, gap, large_frame, status, with_schemas

Reply = Message | list[bytes]
Start = Callable[..., Peer]
Open = Callable[..., ZmqSink]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store.db")


@pytest.fixture
def start(store: Store) -> Iterator[Start]:
    """Start a peer of a class; all are stopped at the end."""
    started: list[Peer] = []

    def start_one(kind: type[Peer] = Peer, endpoint: str = "tcp://127.0.0.1:*") -> Peer:
        for _ in range(50):
            try:
                peer = kind(store, endpoint)
                break
            except Exception:  # the port of the peer before may still be closing
                time.sleep(0.05)
        started.append(peer)
        peer.start()
        return peer

    yield start_one
    for peer in started:
        peer.stop()


@pytest.fixture
def lost() -> Lost:
    return Lost()


@pytest.fixture
def around(tmp_path: Path, lost: Lost) -> SinkContext:
    return context(tmp_path / "state", note_lost=lost.note)


@pytest.fixture
def open_sink(around: SinkContext) -> Iterator[Open]:
    """Open a sink that is quick to give up; all are closed at the end."""
    opened: list[ZmqSink] = []

    def open_one(*endpoints: str, surroundings: SinkContext = around, **settings: object) -> ZmqSink:
        quick = {"hello_timeout": "2s", "ack_timeout": "500ms", "backoff": "20ms", "backoff_max": "100ms"}
        table = quick | {"endpoints": list(endpoints)} | settings
        sink = ZmqSink(convert(table, ZmqSettings, where="[sinks.zmq]"), surroundings)
        opened.append(sink)
        return sink

    yield open_one
    for sink in opened:
        sink.close()


def free_endpoint() -> str:
    """A port where nobody listens."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{found.getsockname()[1]}"


def stored(store: Store) -> list[int]:
    """The seqs of the records in the store, decoded in the order of arrival."""
    records = decoded(data for *_, data in store.rows())
    return [record.seq for record in records if not isinstance(record, Schema)]


def some(first: int, last: int) -> list[Frame]:
    return [frame(seq) for seq in range(first, last + 1)]


# ---- a peer that keeps the protocol


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_write_returns_when_everything_is_durable(
    start: Start, open_sink: Open, store: Store, compression: str
) -> None:
    sink = open_sink(start().endpoint, compression=compression)
    sink.write(with_schemas(some(1, 40)))
    assert stored(store) == list(range(1, 41))
    sink.write([large_frame(41, 500), encode_gap(gap(42, 5, 7)), encode_status(status(43))])
    assert stored(store) == list(range(1, 44))
    assert {row[0] for row in store.rows()} == {AGENT}


def test_compressed_records_are_smaller_on_the_way(start: Start, open_sink: Open, store: Store) -> None:
    many = frame(1, {f"process{i}": i for i in range(500)})
    open_sink(start().endpoint, compression="zstd").write([many])
    assert len(store.rows()[-1][3]) < len(many.data) / 2


def test_a_session_begins_with_hello_and_one_schema_and_ends_with_bye(start: Start, open_sink: Open) -> None:
    peer = start()
    sink = open_sink(peer.endpoint)
    sink.write(with_schemas(some(1, 3)))
    sink.write(some(4, 5))
    sink.close()
    wait_until(lambda: isinstance(peer.heard[-1], Bye))
    ops = [message.op for message in peer.heard]
    assert ops == ["hello", *["data"] * 6, "bye"]
    hello = peer.heard[0]
    assert isinstance(hello, Hello)
    assert (hello.agent, hello.first, hello.last) == (AGENT, 1, 3)
    assert [message.seq for message in peer.heard if isinstance(message, Data)] == [0, 1, 2, 3, 4, 5]


def wait_until(true: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def test_a_schema_is_sent_again_in_every_session(start: Start, open_sink: Open) -> None:
    peer = start()
    for seq in (1, 2):
        sink = open_sink(peer.endpoint)
        sink.write([frame(seq)])
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
def test_records_are_pipelined_within_the_credit_and_the_window(
    start: Start, open_sink: Open, store: Store, kind: type[Counting], window: int
) -> None:
    peer = start(kind)
    open_sink(peer.endpoint, window=window).write(some(1, 12))
    assert isinstance(peer, Counting)
    assert not peer.overrun
    assert stored(store) == list(range(1, 13))
    assert sum(isinstance(message, Hello) for message in peer.heard) == 1, "it never waited for a deadline"


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
    assert stored(store) == list(range(1, 11))
    assert sum(isinstance(message, Hello) for message in peer.heard) == 1


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
    sink = open_sink(first.endpoint, hello_timeout="10s")
    writer = threading.Thread(target=sink.write, args=(with_schemas(some(1, 20)),), daemon=True)
    writer.start()
    wait_until(lambda: store.mark(AGENT, spool_of(first)) == 5)
    first.stop()
    second = start(Peer, first.endpoint)
    writer.join(30)
    assert not writer.is_alive()
    assert stored(store) == list(range(1, 21))
    assert second.repeats == 0
    assert min(data.seq for data in second.data()) == 6


def spool_of(peer: Peer) -> str:
    wait_until(lambda: bool(peer.heard))
    hello = peer.heard[0]
    assert isinstance(hello, Hello)
    return hello.spool


def test_a_peer_killed_again_and_again_stores_every_record_once(
    open_sink: Open, store: Store, tmp_path: Path
) -> None:
    """A process of its own, ended with SIGKILL while records are on their way."""
    endpoint = free_endpoint()
    sink = open_sink(endpoint, hello_timeout="10s")
    frames = [large_frame(seq, 30) for seq in range(1, 1201)]
    failed: list[BaseException] = []

    def write() -> None:
        try:
            for start in range(0, len(frames), 50):
                sink.write(frames[start : start + 50])
        except BaseException as error:
            failed.append(error)

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    kills = 0
    path = os.pathsep.join([one for one in sys.path if one] + [str(Path(__file__).parent)])
    for _ in range(60):
        with subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("aggregator_peer.py")), endpoint, str(store.path)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
        ) as peer:
            assert peer.stdout is not None
            peer.stdout.readline()
            writer.join(random.uniform(0.3, 0.8) if kills < 5 else 60.0)
            peer.send_signal(signal.SIGKILL)
        if not writer.is_alive():
            break
        kills += 1
    assert not failed
    assert kills >= 1
    assert stored(store) == list(range(1, 1201))


def test_a_peer_that_never_acks_but_stores_is_asked_in_a_new_session(
    start: Start, open_sink: Open, store: Store
) -> None:
    class Silent(Peer):
        def answer(self, identity: bytes, message: Message) -> list[Reply]:
            return [reply for reply in super().answer(identity, message) if not isinstance(reply, Ack)]

    peer = start(Silent)
    open_sink(peer.endpoint, window=100).write(some(1, 8))
    assert stored(store) == list(range(1, 9))
    assert peer.repeats == 0, "WELCOME said what was durable: nothing was sent again"
    assert sum(isinstance(message, Hello) for message in peer.heard) == 2


class Hung(Peer):
    """Welcomes, takes records, and says no more."""

    def answer(self, identity: bytes, message: Message) -> list[Reply]:
        if isinstance(message, Hello):
            return super().answer(identity, message)
        return []


def test_a_peer_that_hangs_is_a_sink_error_after_a_few_sessions(start: Start, open_sink: Open) -> None:
    peer = start(Hung)
    with pytest.raises(SinkError, match="no ACK within") as caught:
        open_sink(peer.endpoint).write(some(1, 3))
    assert peer.endpoint in caught.value.where
    assert sum(isinstance(message, Hello) for message in peer.heard) == 3


def test_a_place_where_nobody_listens_is_a_sink_error(open_sink: Open) -> None:
    endpoint = free_endpoint()
    with pytest.raises(SinkError, match="no connection within") as caught:
        open_sink(endpoint, hello_timeout="200ms").write(some(1, 3))
    assert endpoint in caught.value.where
    assert "does an aggregator listen there" in caught.value.remedy


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
    assert stored(store) == list(range(1, 11))


def test_a_peer_restarted_while_the_sink_was_idle_asks_for_hello(
    start: Start, open_sink: Open, store: Store
) -> None:
    first = start()
    sink = open_sink(first.endpoint, ack_timeout="1h", hello_timeout="10s")
    sink.write(some(1, 3))
    first.stop()
    second = start(Peer, first.endpoint)
    sink.write(some(4, 6))
    assert stored(store) == list(range(1, 7))
    assert any(isinstance(message, Hello) for message in second.heard)


def test_a_stopping_agent_waits_for_no_deadline(start: Start, open_sink: Open, around: SinkContext) -> None:
    stopping = threading.Event()
    surroundings = replace(around, stopping=stopping.is_set)
    for endpoint in (free_endpoint(), start(Hung).endpoint):
        stopping.clear()
        sink = open_sink(endpoint, surroundings=surroundings, hello_timeout="1h", ack_timeout="1h")
        failed: list[SinkError] = []

        def write(sink: ZmqSink = sink, failed: list[SinkError] = failed) -> None:
            try:
                sink.write(some(1, 3))
            except SinkError as error:
                failed.append(error)

        writer = threading.Thread(target=write, daemon=True)
        writer.start()
        writer.join(0.3)
        assert writer.is_alive()
        stopping.set()
        writer.join(30)
        assert len(failed) == 1


# ---- peers that are something else


def one_answer(*replies: Reply, to: type[Message] = Hello) -> type[Peer]:
    """A peer that answers each message of one kind with `replies`, the others as it should."""

    class Scripted(Peer):
        def answer(self, identity: bytes, message: Message) -> list[Reply]:
            good = super().answer(identity, message)
            return list(replies) if isinstance(message, to) else good

    return Scripted


def other_version() -> list[bytes]:
    return [msgspec.msgpack.encode({"v": 9, "op": "welcome", "what": "ever"})]


@pytest.mark.parametrize(
    ("peer", "said"),
    [
        (one_answer([b"\xc1garbage"]), "not a message"),
        (one_answer([os.urandom(4097)]), "at most 4096 bytes"),
        (one_answer(other_version()), "speaks version 9"),
        (one_answer(Ack(seq=1, credit=8)), "answered HELLO with ACK"),
        (one_answer(Welcome(durable=10**6, credit=8, max_size=1 << 20)), "claims records up to 1000000"),
        (one_answer([b"?"], to=Data), "not a message"),
        (one_answer(Ack(seq=999, credit=8), to=Data), "ACK is for record 999"),
        (one_answer(Nack(seq=999, fatal=True, reason=""), to=Data), "NACK is for record 999"),
        (one_answer(Hello(agent="a", spool="b", first=1, last=0), to=Data), "sent HELLO in the middle"),
    ],
)
def test_a_peer_that_speaks_otherwise_is_a_sink_error_that_names_it(
    start: Start, open_sink: Open, lost: Lost, peer: type[Peer], said: str
) -> None:
    endpoint = start(peer).endpoint
    with pytest.raises(SinkError, match=said) as caught:
        open_sink(endpoint).write(some(1, 3))
    assert endpoint in caught.value.where
    assert "of a release that fits" in caught.value.remedy
    assert lost.told == []


def test_what_a_strange_peer_acked_is_not_taken_for_delivered(
    start: Start, open_sink: Open, store: Store
) -> None:
    strange = start(one_answer(Ack(seq=2**64 - 1, credit=8), to=Data))
    with pytest.raises(SinkError):
        open_sink(strange.endpoint).write(some(1, 3))
    strange.stop()
    open_sink(start(Peer, strange.endpoint).endpoint).write(some(1, 3))
    assert sorted(set(stored(store))) == [1, 2, 3]


def test_a_refusal_in_welcome_is_a_sink_error_with_its_reason(start: Start, open_sink: Open) -> None:
    refused = Welcome(durable=0, credit=0, max_size=0, refused="unknown agent")
    with pytest.raises(SinkError, match="refuses this agent: unknown agent"):
        open_sink(start(one_answer(refused)).endpoint).write(some(1, 3))


def test_a_server_of_another_protocol_is_a_sink_error(open_sink: Open) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            for _ in range(20):
                try:
                    client, _ = server.accept()
                except OSError:
                    return
                with client:
                    client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        threading.Thread(target=serve, daemon=True).start()
        endpoint = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(SinkError, match=r"no connection|no WELCOME"):
            open_sink(endpoint, hello_timeout="300ms").write(some(1, 3))
        server.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("replies", [[Ack(seq=0, credit=8)] * 20, [Nack(seq=1, fatal=True, reason="late")]])
def test_old_acks_and_nacks_change_nothing(
    start: Start, open_sink: Open, store: Store, lost: Lost, replies: Sequence[Message]
) -> None:
    class Chatty(Peer):
        def answer(self, identity: bytes, message: Message) -> list[Reply]:
            good: list[Reply] = list(super().answer(identity, message))
            return [*good, *replies] if isinstance(message, Data) and message.seq > 1 else good

    open_sink(start(Chatty).endpoint).write(some(1, 10))
    assert stored(store) == list(range(1, 11))
    assert lost.told == []


# ---- records that are refused


class Choosy(Peer):
    """Refuses record 3 for good."""

    def answer(self, identity: bytes, message: Message) -> list[Reply]:
        if isinstance(message, Data) and message.seq == 3:
            return [Nack(seq=3, fatal=True, reason="malformed")]
        return super().answer(identity, message)


def dead_letters(around: SinkContext) -> Path:
    return around.state / "dead-letters" / "test.bpfleet"


def test_a_refused_record_goes_to_the_dead_letters_and_the_others_on(
    start: Start,
    open_sink: Open,
    store: Store,
    lost: Lost,
    around: SinkContext,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, "bpfleet.sink.zmq"):
        open_sink(start(Choosy).endpoint).write(some(1, 6))
    assert stored(store) == [1, 2, 4, 5, 6]
    assert lost.told == [([3], "refused")]
    records = decoded(data for _, data in read_file(dead_letters(around)))
    assert [record.seq for record in records if isinstance(record, Snapshot)] == [3]
    assert "malformed" in caplog.text
    assert str(dead_letters(around)) in caplog.text


def test_dead_letters_are_readable_by_decode(start: Start, open_sink: Open, around: SinkContext) -> None:
    from bpfleet.cli.decode import command

    open_sink(start(Choosy).endpoint).write(some(1, 6))
    done = CliRunner().invoke(command, [str(dead_letters(around)), "--kind", "snapshot"])
    assert done.exit_code == 0
    assert '"seq":3' in done.output


def test_a_record_larger_than_the_peer_takes_is_never_sent(
    start: Start, open_sink: Open, store: Store, lost: Lost, around: SinkContext
) -> None:
    class Small(Peer):
        max_size = 20_000

    peer = start(Small)
    open_sink(peer.endpoint, compression="none").write([frame(1), large_frame(2, 64), frame(3)])
    assert stored(store) == [1, 3]
    assert lost.told == [([2], "refused")]
    assert max(len(data.frame) for data in peer.data()) <= 20_000
    assert len(decoded(data for _, data in read_file(dead_letters(around)))) == 2


def test_dead_letters_that_can_not_be_written_hold_nothing_up(
    start: Start,
    open_sink: Open,
    store: Store,
    lost: Lost,
    around: SinkContext,
    caplog: pytest.LogCaptureFixture,
) -> None:
    around.state.mkdir()
    (around.state / "dead-letters").write_text("a file where a folder should be")
    open_sink(start(Choosy).endpoint).write(some(1, 6))
    assert stored(store) == [1, 2, 4, 5, 6]
    assert lost.told == [([3], "refused")]
    assert "can't be kept" in caplog.text


def test_dead_letters_stay_within_their_size(start: Start, open_sink: Open, around: SinkContext) -> None:
    class Small(Peer):
        max_size = 10_000

    sink = open_sink(start(Small).endpoint, compression="none", dead_letters="200KiB")
    for seq in range(1, 30):
        sink.write([large_frame(seq, 50)])
    files = sorted(dead_letters(around).parent.iterdir())
    assert [file.name for file in files] == ["test.bpfleet", "test.bpfleet.1"]
    assert all(file.stat().st_size <= 200 << 10 for file in files)
    newest = decoded(data for _, data in read_file(dead_letters(around)))[-1]
    assert isinstance(newest, Snapshot)
    assert newest.seq == 29


def test_a_record_refused_for_now_is_sent_again(
    start: Start, open_sink: Open, store: Store, lost: Lost
) -> None:
    class Busy(Peer):
        refusals = 0

        def answer(self, identity: bytes, message: Message) -> list[Reply]:
            if isinstance(message, Data) and message.seq == 3 and self.refusals < 2:
                self.refusals += 1
                self.sessions.clear()
                return [Nack(seq=3, fatal=False, reason="the store is full")]
            return super().answer(identity, message)

    open_sink(start(Busy).endpoint, window=1).write(some(1, 6))
    assert stored(store) == list(range(1, 7))
    assert lost.told == []


# ---- numbers across sinks


def test_frames_offered_again_to_a_new_sink_keep_their_numbers(
    start: Start, open_sink: Open, store: Store
) -> None:
    class DeafAfterFive(Peer):
        """Stores five records, confirms none, and forgets nothing."""

        def answer(self, identity: bytes, message: Message) -> list[Reply]:
            if isinstance(message, Hello):
                super().answer(identity, message)
                return [Welcome(durable=0, credit=8, max_size=1 << 20)]
            if isinstance(message, Data) and message.seq <= 5:
                super().answer(identity, message)
            return []

    frames = some(1, 10)
    first = start(DeafAfterFive)
    failing = open_sink(first.endpoint)
    with pytest.raises(SinkError):
        failing.write(with_schemas(frames))
    failing.close()
    first.stop()
    second = start(Peer, first.endpoint)
    # As the delivery layer does: the two oldest were dropped, a gap stands in their place, new ones follow.
    told = encode_gap(gap(3, 1, 2))
    open_sink(first.endpoint).write([told, *with_schemas(frames[2:]), *some(11, 12)])
    assert second.repeats == 0
    assert {data.spool for data in second.data()} == {spool_of(first)}
    assert [data.seq for data in second.data()] == [6, 7, 8, 9, 10, 11, 12, 13]
    assert sorted(stored(store)) == sorted([*range(1, 13), 3])


def test_what_was_confirmed_or_refused_in_a_failed_write_is_not_sent_again(
    start: Start, open_sink: Open, store: Store, lost: Lost
) -> None:
    """The delivery layer offers the whole batch again, also what had been settled before the failure."""

    class Choking(Choosy):
        def answer(self, identity: bytes, message: Message) -> list[Reply]:
            if isinstance(message, Data) and message.seq > 5:
                return []
            return super().answer(identity, message)

    frames = some(1, 10)
    first = start(Choking)
    for _ in range(2):
        sink = open_sink(first.endpoint)
        with pytest.raises(SinkError, match="no ACK"):
            sink.write(with_schemas(frames))
        sink.close()
    first.stop()
    second = start(Peer, first.endpoint)
    sink = open_sink(first.endpoint)
    for batch in (frames[:4], frames[4:7], [*frames[7:], frame(11)]):
        sink.write(batch)
    assert second.repeats == 0
    assert [data.seq for data in second.data()] == [6, 7, 8, 9, 10, 11]
    assert stored(store) == [1, 2, 4, 5, 6, 7, 8, 9, 10, 11]
    assert lost.told == [([3], "refused")]


def test_each_sink_has_a_numbering_of_its_own(start: Start, open_sink: Open, around: SinkContext) -> None:
    peers = [start(), start()]
    for peer, name in zip(peers, ("a", "b"), strict=True):
        open_sink(peer.endpoint, surroundings=replace(around, name=name)).write(some(1, 2))
    assert spool_of(peers[0]) != spool_of(peers[1])
    assert [data.seq for data in peers[1].data()] == [1, 2]


# ---- several endpoints


def test_the_first_endpoint_that_answers_is_used(start: Start, open_sink: Open, store: Store) -> None:
    peer = start()
    sink = open_sink(free_endpoint(), free_endpoint(), peer.endpoint, hello_timeout="200ms")
    sink.write(some(1, 5))
    assert stored(store) == list(range(1, 6))


def test_a_strange_endpoint_is_left_for_the_next(start: Start, open_sink: Open, store: Store) -> None:
    strange = start(one_answer([b"?"]))
    open_sink(strange.endpoint, start().endpoint).write(some(1, 5))
    assert stored(store) == list(range(1, 6))


def test_an_aggregator_that_stays_dead_is_left_for_the_next(
    start: Start, open_sink: Open, store: Store
) -> None:
    first, second = start(), start()
    sink = open_sink(first.endpoint, second.endpoint, hello_timeout="300ms")
    sink.write(some(1, 5))
    assert not second.heard
    first.stop()
    sink.write(some(6, 9))
    assert stored(store) == list(range(1, 10))
    assert second.heard


# ---- everything at once


@pytest.mark.parametrize("seed", range(6))
def test_whatever_a_peer_does_every_record_is_stored_once(
    start: Start, open_sink: Open, store: Store, lost: Lost, around: SinkContext, seed: int
) -> None:
    """A peer that at random drops or repeats ACKs, says BYE, refuses for now, forgets its sessions."""
    chance = random.Random(seed)

    class Fickle(Peer):
        troubles = 25

        def answer(self, identity: bytes, message: Message) -> list[Reply]:
            mood = chance.random() if self.troubles > 0 else 1.0
            if not isinstance(message, Data) or not message.seq or mood > 0.3:
                self.credit = chance.randint(1, 12)
                return super().answer(identity, message)
            self.troubles -= 1
            if mood < 0.05:
                self.sessions.clear()
                return []
            if mood < 0.1:
                self.sessions.clear()
                return [Bye(reason="chance")]
            if mood < 0.15:
                self.sessions.clear()
                return [Nack(seq=message.seq, fatal=False, reason="chance")]
            replies = super().answer(identity, message)
            return replies * 3 if mood < 0.2 else []

    peer = start(Fickle)
    frames = some(1, 200)
    at = 0
    sink = open_sink(peer.endpoint, ack_timeout="150ms", window=6)
    for _ in range(200):
        if at == len(frames):
            break
        size = chance.randint(1, 30)
        try:
            sink.write(with_schemas(frames[at : at + size]))
            at += size
        except SinkError:
            sink.close()
            sink = open_sink(peer.endpoint, ack_timeout="150ms", window=6)
        at = min(at, len(frames))
    assert at == len(frames)
    assert stored(store) == list(range(1, 201))
    assert lost.told == []


# ---- settings


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({}, "endpoints"),
        ({"endpoints": []}, "endpoints"),
        ({"endpoints": ["localhost:5555"]}, "'localhost:5555' is not tcp://HOST:PORT"),
        ({"endpoints": ["tcp://h:1"], "window": 0}, "window"),
        ({"endpoints": ["tcp://h:1"], "compresion": "zstd"}, "did you mean 'compression'"),
    ],
)
def test_settings_that_make_no_sense_are_explained(table: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        convert(table, ZmqSettings, where="[sinks.zmq]")
    assert said in str(caught.value)


def test_the_plugin_offers_zmq() -> None:
    (kind,) = bpfleet_sinks()
    assert (kind.name, kind.settings, kind.open) == ("zmq", ZmqSettings, ZmqSink)

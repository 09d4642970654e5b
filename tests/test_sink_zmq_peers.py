"""The zmq sink against peers that are something else, or refuse records."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable, Sequence

import msgspec
import pytest
from click.testing import CliRunner

from aggregator_peer import Peer, Store
from bpfleet import SinkContext
from bpfleet.errors import ConfigError
from bpfleet.settings import convert
from bpfleet.wire import Snapshot, read_file
from bpfleet.wire.messages import Ack, Data, Hello, Message, Nack, Welcome
from bpfleet_plugins.sinks.zmq import ZmqSettings, ZmqSink, bpfleet_sinks
from delivery_scenes import (
    Reply,
    Told,
    arrive,
    dead_letters,
    gaps,
    one_answer,
    some,
    stored,
    wait_until,
)
from sample_records import decoded, frame, large_frame

Start = Callable[..., Peer]
Open = Callable[..., ZmqSink]


def other_version() -> list[bytes]:
    return [msgspec.msgpack.encode({"v": 9, "op": "welcome", "what": "ever"})]


@pytest.mark.parametrize(
    ("peer", "said"),
    [
        (one_answer([b"\xc1garbage"]), "not a message"),
        (one_answer([os.urandom(4097)]), "at most 4096 bytes"),
        (one_answer(other_version()), "speaks version 9"),
        (one_answer(Ack(seq=1, credit=8)), "answered HELLO with ACK"),
        (one_answer(Welcome(durable=2**64 - 1, credit=8, max_size=1 << 20)), "claims records up to 1844"),
        (one_answer([b"?"], to=Data), "not a message"),
        (one_answer(Ack(seq=999, credit=8), to=Data), "ACK is for record 999"),
        (one_answer(Nack(seq=999, fatal=True, reason=""), to=Data), "NACK is for record 999"),
        (one_answer(Hello(agent="a", spool="b", first=1, last=0), to=Data), "sent HELLO in the middle"),
    ],
)
def test_a_peer_that_speaks_otherwise_is_told_by_name(
    start: Start, open_sink: Open, told: Told, peer: type[Peer], said: str
) -> None:
    endpoint = start(peer).endpoint
    open_sink(endpoint).write(some(1, 3))
    error = told.wait_for_error(said)
    assert endpoint in error.where
    assert "of a release that fits" in error.remedy
    wait_until(lambda: told.spool["records"] == 3)


def test_what_a_strange_peer_acked_is_not_taken_for_delivered(
    start: Start, open_sink: Open, store: Store, told: Told
) -> None:
    strange = start(one_answer(Ack(seq=2**64 - 1, credit=8), to=Data))
    sink = open_sink(strange.endpoint)
    sink.write(some(1, 3))
    told.wait_for_error("ACK is for record")
    sink.close()
    strange.stop()
    open_sink(start(Peer, strange.endpoint).endpoint)
    wait_until(lambda: sorted(set(stored(store))) == [1, 2, 3])


def test_a_refusal_in_welcome_is_told_with_its_reason(start: Start, open_sink: Open, told: Told) -> None:
    refused = Welcome(durable=0, credit=0, max_size=0, refused="unknown agent")
    open_sink(start(one_answer(refused)).endpoint).write(some(1, 3))
    told.wait_for_error("refuses this agent: unknown agent")


def test_a_server_of_another_protocol_is_told(open_sink: Open, told: Told) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    client, _ = server.accept()
                except OSError:
                    return
                with client:
                    client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        threading.Thread(target=serve, daemon=True).start()
        endpoint = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        open_sink(endpoint, hello_timeout="300ms").write(some(1, 3))
        error = told.wait_for_error("records can't be delivered")
        assert "aggregator" in error.remedy
        server.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("replies", [[Ack(seq=0, credit=8)] * 20, [Nack(seq=1, fatal=True, reason="late")]])
def test_old_acks_and_nacks_change_nothing(
    start: Start, open_sink: Open, store: Store, replies: Sequence[Message]
) -> None:
    class Chatty(Peer):
        def answer(self, identity: bytes, message: Message) -> list[Reply]:
            good: list[Reply] = list(super().answer(identity, message))
            return [*good, *replies] if isinstance(message, Data) and message.seq > 1 else good

    open_sink(start(Chatty).endpoint, window=1).write(some(1, 10))
    arrive(store, list(range(1, 11)))
    assert gaps(store) == []


# ---- records that are refused


class Choosy(Peer):
    """Refuses record 3 for good."""

    def answer(self, identity: bytes, message: Message) -> list[Reply]:
        if isinstance(message, Data) and message.seq == 3:
            return [Nack(seq=3, fatal=True, reason="malformed")]
        return super().answer(identity, message)


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_a_refused_record_goes_to_the_dead_letters_and_a_gap_tells_the_aggregator(
    start: Start,
    open_sink: Open,
    store: Store,
    around: SinkContext,
    caplog: pytest.LogCaptureFixture,
    compression: str,
) -> None:
    with caplog.at_level(logging.WARNING, "bpfleet.sink.zmq"):
        open_sink(start(Choosy).endpoint, compression=compression).write(some(1, 6))
        arrive(store, [1, 2, 4, 5, 6])
        wait_until(lambda: gaps(store))
    (gap,) = gaps(store)
    assert (gap.first, gap.last, gap.count, gap.reason) == (3, 3, 1, "refused")
    records = decoded(data for _, data in read_file(dead_letters(around)))
    assert [record.seq for record in records if isinstance(record, Snapshot)] == [3]
    assert "malformed" in caplog.text
    assert str(dead_letters(around)) in caplog.text


def test_dead_letters_are_readable_by_decode(
    start: Start, open_sink: Open, store: Store, around: SinkContext
) -> None:
    from bpfleet.cli.decode import command

    open_sink(start(Choosy).endpoint).write(some(1, 6))
    wait_until(lambda: gaps(store))
    done = CliRunner().invoke(command, [str(dead_letters(around)), "--kind", "snapshot"])
    assert done.exit_code == 0
    assert '"seq":3' in done.output


def test_a_record_larger_than_the_peer_takes_is_never_sent(
    start: Start, open_sink: Open, store: Store, around: SinkContext
) -> None:
    class Small(Peer):
        max_size = 20_000

    peer = start(Small)
    open_sink(peer.endpoint, compression="none").write([frame(1), large_frame(2, 64), frame(3)])
    arrive(store, [1, 3])
    wait_until(lambda: gaps(store))
    assert [(gap.first, gap.reason) for gap in gaps(store)] == [(2, "refused")]
    assert max(len(data.frame) for data in peer.data()) <= 20_000
    assert len(decoded(data for _, data in read_file(dead_letters(around)))) == 2


def test_dead_letters_that_can_not_be_written_hold_nothing_up(
    start: Start, open_sink: Open, store: Store, around: SinkContext, caplog: pytest.LogCaptureFixture
) -> None:
    around.state.mkdir()
    (around.state / "dead-letters").write_text("a file where a folder should be")
    open_sink(start(Choosy).endpoint).write(some(1, 6))
    arrive(store, [1, 2, 4, 5, 6])
    wait_until(lambda: gaps(store))
    assert "can't be kept" in caplog.text


def test_dead_letters_stay_within_their_size(
    start: Start, open_sink: Open, store: Store, around: SinkContext
) -> None:
    class Small(Peer):
        max_size = 10_000

    sink = open_sink(start(Small).endpoint, compression="none", dead_letters="200KiB")
    sink.write([large_frame(seq, 50) for seq in range(1, 30)])
    wait_until(lambda: len(gaps(store)) == 29)
    files = sorted(dead_letters(around).parent.iterdir())
    assert [file.name for file in files] == ["test.bpfleet", "test.bpfleet.1"]
    assert all(file.stat().st_size <= 200 << 10 for file in files)
    newest = decoded(data for _, data in read_file(dead_letters(around)))[-1]
    assert isinstance(newest, Snapshot)
    assert newest.seq == 29


def test_a_record_refused_for_now_is_sent_again(start: Start, open_sink: Open, store: Store) -> None:
    class Busy(Peer):
        refusals = 0

        def answer(self, identity: bytes, message: Message) -> list[Reply]:
            if isinstance(message, Data) and message.seq == 3 and self.refusals < 2:
                self.refusals += 1
                self.sessions.clear()
                return [Nack(seq=3, fatal=False, reason="the store is full")]
            return super().answer(identity, message)

    open_sink(start(Busy).endpoint, window=1).write(some(1, 6))
    arrive(store, list(range(1, 7)))
    assert gaps(store) == []


# ---- settings

KEY = "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"
SECOND = "JTKVSB%%)wK0E.X)V>+}o?pNmC{O&4W4b!Ni{Lh6"


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({}, "endpoints"),
        ({"endpoints": []}, "endpoints"),
        ({"endpoints": ["localhost:5555"]}, "'localhost:5555' is not tcp://HOST:PORT"),
        ({"endpoints": ["tcp://localhost:1"], "window": 0}, "window"),
        ({"endpoints": ["tcp://localhost:1"], "compresion": "zstd"}, "did you mean 'compression'"),
        ({"endpoints": ["tcp://localhost:1"], "spool_size": "10KiB"}, "at least 1MiB"),
        ({"endpoints": ["tcp://localhost:1", "tcp://localhost:1"]}, "named twice"),
        ({"endpoints": ["tcp://example.net:1"]}, "there is no server_key"),
        ({"endpoints": ["tcp://10.0.0.1:1"]}, 'or say curve = "off"'),
        ({"endpoints": ["tcp://localhost.example.net:1"]}, "bpfleet keys new"),
        ({"endpoints": ["tcp://a:1"], "server_key": ["short"]}, "'short' is no public key"),
        ({"endpoints": ["tcp://a:1"], "server_key": [KEY, SECOND]}, "1 endpoints and 2 server keys"),
    ],
)
def test_settings_that_make_no_sense_are_explained(table: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        convert(table, ZmqSettings, where="[sinks.zmq]")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "endpoint", ["tcp://127.0.0.1:1", "tcp://[::1]:1", "tcp://localhost:1", "ipc:///run/x"]
)
def test_an_aggregator_on_this_host_needs_no_keys(endpoint: str) -> None:
    settings = convert({"endpoints": [endpoint]}, ZmqSettings, where="")
    assert settings.server_key_of(endpoint) is None


def test_a_server_key_is_for_all_endpoints_or_for_each_its_own() -> None:
    two = {"endpoints": ["tcp://a:1", "tcp://b:1"]}
    one = convert(two | {"server_key": [KEY]}, ZmqSettings, where="")
    assert [one.server_key_of(name) for name in two["endpoints"]] == [KEY, KEY]
    each = convert(two | {"server_key": [KEY, SECOND]}, ZmqSettings, where="")
    assert [each.server_key_of(name) for name in two["endpoints"]] == [KEY, SECOND]
    off = convert(two | {"curve": "off"}, ZmqSettings, where="")
    assert off.server_key_of("tcp://a:1") is None


def test_the_plugin_offers_zmq() -> None:
    (kind,) = bpfleet_sinks()
    assert (kind.name, kind.settings, kind.open) == ("zmq", ZmqSettings, ZmqSink)

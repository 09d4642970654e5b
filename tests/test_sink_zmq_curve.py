"""CURVE between the zmq sink and a real ROUTER with ZAP: who is not admitted learns why."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import zmq
from zmq.auth.thread import ThreadAuthenticator

from aggregator_peer import Peer, Store
from bpfleet import SinkContext
from bpfleet.errors import BpfleetError
from bpfleet.keys import KeyPair, write_pair
from bpfleet_plugins.sinks.zmq import ZmqSink
from delivery_scenes import Told, arrive, some

Start = Callable[..., Peer]
Open = Callable[..., ZmqSink]


def made() -> KeyPair:
    public, secret = (key.decode() for key in zmq.curve_keypair())
    return KeyPair(public, secret)


SERVER, AGENT, OTHER = made(), made(), made()


@pytest.fixture
def key(around: SinkContext) -> Path:
    around.state.mkdir(exist_ok=True)
    write_pair(around.state / "bpfleet.key", AGENT)
    return around.state / "bpfleet.key"


def admitting(*pairs: KeyPair) -> type[Peer]:
    """A peer with CURVE that admits these keys alone."""
    admitted = {pair.public for pair in pairs}

    class Provider:
        def callback(self, domain: str, key: bytes) -> bool:
            return key.decode() in admitted

    class Locked(Peer):
        def __init__(self, store: Store, endpoint: str) -> None:
            super().__init__(store, "inproc://unused")
            self.zap = ThreadAuthenticator(self._context)
            self.zap.start()
            self.zap.configure_curve_callback("*", Provider())
            self.socket.curve_server = True
            self.socket.curve_secretkey = SERVER.secret.encode()
            self.socket.curve_publickey = SERVER.public.encode()
            self.socket.bind(endpoint)
            self.endpoint = self.socket.getsockopt_string(zmq.LAST_ENDPOINT)

        def serve(self) -> None:
            context, self._context = self._context, zmq.Context()
            super().serve()
            self.zap.stop()
            context.term()

    return Locked


def test_records_arrive_encrypted_where_the_key_is_admitted(
    start: Start, open_sink: Open, store: Store, key: Path
) -> None:
    open_sink(start(admitting(AGENT)).endpoint, server_key=[SERVER.public]).write(some(1, 5))
    arrive(store, [1, 2, 3, 4, 5])


def test_a_key_that_is_not_admitted_is_told_with_what_to_admit(
    start: Start, open_sink: Open, told: Told, key: Path
) -> None:
    endpoint = start(admitting(OTHER)).endpoint
    open_sink(endpoint, server_key=[SERVER.public]).write(some(1, 2))
    error = told.wait_for_error("does not admit this agent's key")
    assert AGENT.public in error.remedy
    assert endpoint in error.where


def test_a_wrong_server_key_is_told(start: Start, open_sink: Open, told: Told, key: Path) -> None:
    open_sink(start(admitting(AGENT)).endpoint, server_key=[OTHER.public]).write(some(1, 2))
    assert "server_key" in told.wait_for_error("encrypted connection does not come about").remedy


def test_an_aggregator_that_wants_curve_is_told(start: Start, open_sink: Open, told: Told) -> None:
    open_sink(start(admitting(AGENT)).endpoint).write(some(1, 2))
    assert "server_key" in told.wait_for_error("the connection does not come about").remedy


def test_an_aggregator_without_curve_is_told(
    start: Start, open_sink: Open, told: Told, key: Path, store: Store
) -> None:
    open_sink(start().endpoint, server_key=[SERVER.public]).write(some(1, 2))
    told.wait_for_error("encrypted connection does not come about")
    assert store.rows() == [], "nothing goes out unencrypted"


def test_a_missing_key_file_is_an_error_with_the_command(open_sink: Open) -> None:
    with pytest.raises(BpfleetError, match="there is no key file") as caught:
        open_sink("tcp://127.0.0.1:1", server_key=[SERVER.public])
    assert "bpfleet keys new" in caught.value.remedy


def test_a_pair_whose_halves_differ_is_refused(open_sink: Open, around: SinkContext) -> None:
    around.state.mkdir()
    write_pair(around.state / "bpfleet.key", KeyPair(OTHER.public, AGENT.secret))
    with pytest.raises(BpfleetError, match="is not that of the secret key"):
        open_sink("tcp://127.0.0.1:1", server_key=[SERVER.public])

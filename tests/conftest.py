"""Fixtures shared by all tests. Tests of the main job need root and a kernel with BTF; both are
stated where missing."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import zmq

from agent_process import Agent
from aggregator_client import Client
from aggregator_peer import Peer, Store
from aggregator_process import AggregatorProcess
from bpfleet import SinkContext
from bpfleet.settings import convert
from bpfleet_plugins.sinks.zmq import ZmqSettings, ZmqSink
from delivery_scenes import Told
from sample_records import context
from watched import cgroup_v2, new_cgroup

if TYPE_CHECKING:
    from clickhouse_servers import Engine, Place, ServerProcess


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() != 0:
        for item in items:
            item.add_marker(pytest.mark.skip(reason="not root: the tests load BPF programs"))


@pytest.fixture
def start_agent(tmp_path: Path) -> Iterator[Callable[..., Agent]]:
    """Start `bpfleet run` with a configuration; it is stopped at the end of the test."""
    started: list[Agent] = []

    def start(config: str, *, sink: bool = True, **environment: str) -> Agent:
        agent = Agent(config, tmp_path, sink=sink, environment=environment)
        started.append(agent)
        return agent

    yield start
    for agent in started:
        agent.stop()


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A cgroup of v2, at the top of the hierarchy."""
    root = cgroup_v2()
    if root is None:
        pytest.skip("no cgroup v2 file system is mounted")
    with new_cgroup(root) as made:
        yield made


# ---- the zmq sink and its peers


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store.db")


@pytest.fixture
def start(store: Store) -> Iterator[Callable[..., Peer]]:
    """Start a peer of a class; all are stopped at the end."""
    started: list[Peer] = []

    def start_one(kind: type[Peer] = Peer, endpoint: str = "tcp://127.0.0.1:*", **options: Any) -> Peer:
        for _ in range(50):
            try:
                peer = kind(store, endpoint, **options)
                break
            except zmq.ZMQError:  # the port of the peer before may still be closing
                time.sleep(0.05)
        started.append(peer)
        return peer.start()

    yield start_one
    for peer in started:
        peer.stop()


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def around(tmp_path: Path, told: Told) -> SinkContext:
    return context(tmp_path / "state", note_state=told.note)


@pytest.fixture
def open_sink(around: SinkContext) -> Iterator[Callable[..., ZmqSink]]:
    """Open a sink that is quick to give up; all are closed at the end."""
    opened: list[ZmqSink] = []

    def open_one(*endpoints: str, surroundings: SinkContext = around, **settings: object) -> ZmqSink:
        quick = {
            "hello_timeout": "2s",
            "ack_timeout": "500ms",
            "backoff": "20ms",
            "backoff_max": "100ms",
            "move_after": "100ms",
        }
        table = quick | {"endpoints": list(endpoints)} | settings
        sink = ZmqSink(convert(table, ZmqSettings, where="[sinks.zmq]"), surroundings)
        opened.append(sink)
        return sink

    yield open_one
    for sink in opened:
        sink.close()


@pytest.fixture
def shared_path() -> Iterator[Path]:
    """A directory that other users may enter: pytest makes its own private again at each run."""
    made = Path(tempfile.mkdtemp(prefix="bpfleet-test-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


# ---- the aggregator


@pytest.fixture
def shards(request: pytest.FixtureRequest) -> int:
    """Of aggregators that `start_aggregator` starts; 1 where a module does not say otherwise."""
    return int(getattr(request, "param", 1))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A module with `SHARDS` has its tests run with aggregators of so many shards, each number in turn."""
    numbers = getattr(metafunc.module, "SHARDS", ())
    if numbers and "shards" in metafunc.fixturenames:
        metafunc.parametrize("shards", numbers, ids=[f"{number} shards" for number in numbers], indirect=True)


@pytest.fixture
def start_aggregator(shared_path: Path, shards: int) -> Iterator[Callable[..., AggregatorProcess]]:
    """Start `bpfleet aggregate`; each must end with exit code 0."""
    started: list[AggregatorProcess] = []

    def start(settings: str = "", **options: Any) -> AggregatorProcess:
        started.append(AggregatorProcess(shared_path, settings, **{"shards": shards, **options}))
        return started[-1]

    yield start
    for one in started:
        assert one.stop() == 0, one.said


@pytest.fixture
def connect() -> Iterator[Callable[..., Client]]:
    """Connect to an aggregator by hand; all connections are closed at the end."""
    opened: list[Client] = []

    def begin(*arguments: Any, **options: Any) -> Client:
        opened.append(Client(*arguments, **options))
        return opened[-1]

    yield begin
    for one in opened:
        one.close()


@pytest.fixture(scope="session")
def clickhouse_server() -> Iterator[ServerProcess]:
    """Debian's ClickHouse, on ports and in a folder of its own."""
    from clickhouse_servers import ServerProcess, in_memory

    with in_memory() as folder:
        server = ServerProcess(folder / "clickhouse")
        server.start()
        yield server
        server.kill()


@pytest.fixture(scope="session")
def clickhouse_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """The current engine of ClickHouse, in this process."""
    from clickhouse_servers import Engine

    engine = Engine(tmp_path_factory.mktemp("chdb"))
    yield engine
    engine.end()


@pytest.fixture
def server_place(clickhouse_server: ServerProcess, tmp_path: Path) -> Iterator[Place]:
    """A database on Debian's server."""
    from clickhouse_servers import Place

    place = Place(clickhouse_server, None, tmp_path)
    yield place
    place.close()


@pytest.fixture(params=["18.16", "current"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """A database on Debian's server, and once more in the current engine."""
    from clickhouse_servers import Place

    if request.param == "current":
        made = Place(None, request.getfixturevalue("clickhouse_engine"), tmp_path)
    else:
        made = Place(request.getfixturevalue("clickhouse_server"), None, tmp_path)
    yield made
    made.close()

"""Fixtures shared by all tests. Tests of the main job need root and a kernel with BTF; both are
stated where missing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from agent_process import Agent

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


@pytest.fixture(scope="session")
def clickhouse_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Debian's ClickHouse, on ports and in a folder of its own."""
    from clickhouse_servers import ServerProcess

    server = ServerProcess(tmp_path_factory.mktemp("clickhouse"))
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

"""Fixtures shared by all tests. Tests of the main job need root and a kernel with BTF; both are
stated where missing."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent_process import Agent


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
def shared_path() -> Iterator[Path]:
    """A directory that other users may enter: pytest makes its own private again at each run."""
    made = Path(tempfile.mkdtemp(prefix="bpfleet-test-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)

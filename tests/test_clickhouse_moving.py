"""Two aggregators in front of two ClickHouse replicas: agents move when one of them, or its server, dies."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from aggregator_process import AggregatorProcess
from clickhouse_cluster import Cluster, places_of, running
from clickhouse_servers import Place, free_port
from oracle_agents import OracleAgent


@pytest.fixture(scope="module")
def replicas() -> Iterator[Cluster]:
    """One shard of two replicas."""
    yield from running(1, 2)


@pytest.fixture
def pair(replicas: Cluster, tmp_path: Path) -> Iterator[list[Place]]:
    """A database on two replicas, as seen from each."""
    yield from places_of(replicas, tmp_path)


def table(place: Place) -> str:
    settings = place.settings()
    return (
        f'[store.clickhouse]\nurl = "{settings.url}"\ndatabase = "{settings.database}"\ncluster = "fleet"\n'
        'replicated = true\ntimeout = "20s"'
    )


def judge(place: Place, agents: Sequence[OracleAgent]) -> None:
    """What that server has of each agent is what was promised, once."""
    found: dict[str, Counter[int]] = {}
    for row in place.ask("SELECT agent, number FROM oracle_records"):
        found.setdefault(row["agent"], Counter())[row["number"]] += 1
    for agent in agents:
        numbers = found[agent.id]
        assert len(agent.promised()) > 50
        assert not agent.promised() - numbers.keys(), f"lost of {agent.kind}"
        assert numbers.keys() <= agent.made()
        assert max(numbers.values()) == 1, f"repeated of {agent.kind}"


def eventually_judged(place: Place, agents: Sequence[OracleAgent]) -> None:
    """A server that was killed finds seconds after it is back, at an empty queue, that it lacks parts, and
    fetches them; SYSTEM SYNC REPLICA does not wait for that. What is lost never comes."""
    deadline = time.monotonic() + 90
    while True:
        try:
            return judge(place, agents)
        except AssertionError:
            if time.monotonic() > deadline:
                raise
        time.sleep(1)


@pytest.mark.timeout(500)
def test_agents_go_from_one_aggregator_to_another_and_back_while_aggregators_and_servers_are_killed(
    pair: list[Place], replicas: Cluster, shared_path: Path
) -> None:
    """Two `bpfleet aggregate`, each beside its replica; agents that know both."""
    both, agents = [], []
    try:
        for index, place in enumerate(pair):
            (shared_path / str(index)).mkdir()
            bind = f"tcp://127.0.0.1:{free_port()}"
            both.append(
                AggregatorProcess(shared_path / str(index), "window = 64", store=table(place), bind=bind)
            )
        endpoints = ",".join(one.endpoint for one in both)
        for n in range(4):
            kind, folder = "spool" if n % 2 else "sink", shared_path / f"agent{n}"
            agents.append(OracleAgent(kind, [], endpoints, folder, shared_path / "states", []))
        for index in (0, 1):
            time.sleep(2)
            both[index].kill()
            time.sleep(2)
            both[index].restart()
            replicas.servers[1 - index].kill()
            time.sleep(3)
            replicas.servers[1 - index].start()
        for agent in agents:
            agent.finish()
        late = [agent.kind for agent in agents if not agent.finished(150)]
        assert not late, "".join(one.said for one in both)
        assert [one.stop() for one in both] == [0, 0]
    finally:
        for agent in agents:
            if agent.process.poll() is None:
                agent.kill()
        for one in both:
            if one.process.poll() is None:
                one.kill()
    for place in pair:
        eventually_judged(place, agents)

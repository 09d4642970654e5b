"""What the store adds up to is what the kernel counted; three agents, each in its own network namespace."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from agent_process import BPFLEET, run
from aggregator_process import AggregatorProcess

PORT = 7797
AGENTS = 3
STARTS = 400


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=20)


@pytest.fixture
def namespaces() -> Iterator[list[str]]:
    """The aggregator's, then one for each agent, with a cable from the one to each of the others."""
    names = [f"bf{os.getpid() % 100_000}x{number}" for number in range(AGENTS + 1)]
    try:
        for name in names:
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        central, *others = names
        for number, name in enumerate(others, 1):
            cable = f"c{number}"
            ip("-n", central, "link", "add", cable, "type", "veth", "peer", "name", "c0", "netns", name)
            for where, end, address in ((central, cable, 1), (name, "c0", 2)):
                ip("-n", where, "address", "add", f"10.214.{number}.{address}/24", "dev", end)
                ip("-n", where, "link", "set", end, "up")
        yield names
    finally:
        for name in names:
            with suppress(subprocess.CalledProcessError):
                ip("netns", "del", name)


def started_agent(namespace: str, number: int, directory: Path) -> subprocess.Popen[str]:
    folder = directory / f"agent{number}"
    folder.mkdir()
    config = folder / "bpfleet.toml"
    config.write_text(
        f'[agent]\ninterval = "200ms"\nstate = "{folder}/state"\n[collectors.execve]\n'
        f'[sinks.zmq]\nendpoints = ["tcp://10.214.{number}.1:{PORT}"]\ncurve = "off"\n'
        'ack_timeout = "2s"\nhello_timeout = "2s"\nbackoff = "100ms"\nbackoff_max = "500ms"\n'
    )
    return subprocess.Popen(
        ["ip", "netns", "exec", namespace, BPFLEET, "run", "--config", str(config)],
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.timeout(180)
def test_stored_totals_equal_the_kernels_though_the_aggregator_is_killed_meanwhile(
    shared_path: Path, namespaces: list[str]
) -> None:
    central, *others = namespaces
    program = shared_path / f"y{os.getpid()}"
    program.write_bytes(Path("/bin/true").read_bytes())
    program.chmod(0o755)
    aggregator = AggregatorProcess(
        shared_path,
        'curve = "off"',
        store="[store.duckdb]",
        bind=f"tcp://0.0.0.0:{PORT}",
        prefix=["ip", "netns", "exec", central],
    )

    def ask(question: str) -> list[dict[str, object]]:
        folder = str(aggregator.state / "duckdb")
        done = run("query", "--store", folder, "--format", "json", question)
        return [json.loads(line) for line in done.stdout.splitlines()]

    agents = [started_agent(name, number, shared_path) for number, name in enumerate(others, 1)]
    try:
        aggregator.wait_for(
            lambda: len(ask("SELECT DISTINCT agent FROM execve_counts")) == AGENTS, seconds=60
        )
        for number in range(STARTS):
            subprocess.run([program], check=True)
            if number == STARTS // 2:
                aggregator.kill()
            if number == STARTS * 3 // 4:
                aggregator.restart()
        time.sleep(1)  # a few more snapshots
        for agent in agents:
            agent.terminate()
        for agent in agents:
            _, said = agent.communicate(timeout=40)
            assert agent.returncode == 0, said
    finally:
        for agent in agents:
            agent.kill()
            agent.wait()
        if aggregator.process.poll() is None:
            assert aggregator.stop() == 0, aggregator.said
    name = program.name
    totals = ask(f"SELECT agent, max(count) AS total FROM execve_counts WHERE comm = '{name}' GROUP BY agent")
    assert [row["total"] for row in totals] == [STARTS] * AGENTS
    grown = ask(f"SELECT agent, sum(count) AS n FROM execve_counts_rate WHERE comm = '{name}' GROUP BY agent")
    assert [row["n"] for row in grown] == [STARTS] * AGENTS
    (records,) = ask("SELECT count(*) AS n, count(DISTINCT (agent, run, seq)) AS different FROM snapshots")
    assert records["n"] == records["different"]
    assert ask("SELECT * FROM gaps") == []

"""Energy by RAPL, as cputime tells it: against a mock of /sys/class/powercap, as virtual machines have none.

The agent runs in a mount namespace of its own, where the mock is mounted over /sys/class. What is true of a
real tree and not of this one: its directories are links into /sys/devices, its numbers grow by themselves.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent_process import Agent, run

RANGE = 262_143_328_850  # as real ones have


class Mock:
    """A tree like /sys/class/powercap."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "powercap").mkdir(parents=True)

    def zone(self, zone: str, name: str, energy: int, most: int = RANGE) -> None:
        there = self.folder / "powercap" / zone
        there.mkdir()
        (there / "name").write_text(name + "\n")
        (there / "max_energy_range_uj").write_text(f"{most}\n")
        self.set(zone, energy)
        # Linux 5.10 made it so: fine measurements of energy tell of secrets.
        (there / "energy_uj").chmod(0o400)

    def set(self, zone: str, energy: int) -> None:
        # In place, as in sysfs: the agent has the file open. Of one length: it may read meanwhile.
        file = os.open(self.folder / "powercap" / zone / "energy_uj", os.O_WRONLY | os.O_CREAT)
        os.write(file, b"%20d\n" % energy)
        os.close(file)


@pytest.fixture
def mock(tmp_path: Path) -> Mock:
    return Mock(tmp_path / "class")


@pytest.fixture
def start(mock: Mock, tmp_path: Path) -> Iterator[Callable[[], Agent]]:
    started: list[Agent] = []

    def begin() -> Agent:
        under = ["unshare", "--mount", "--propagation", "private", "sh", "-c"]
        under += [f'mount --bind {mock.folder} /sys/class && exec "$@"', "sh"]
        config = '[agent]\ninterval = "100ms"\n[collectors.cputime]\n'
        started.append(Agent(config, tmp_path, under=under))
        return started[-1]

    yield begin
    for agent in started:
        agent.stop()


def told(agent: Agent) -> dict[str, Any]:
    """(name, µJ) by zone, in a snapshot that is yet to come."""
    rows = agent.next_snapshot("cputime", "energy")["rows"]
    return {row["zone"]: (row["name"], row["energy_uj"]) for row in rows}


def test_energy_counts_from_zero_at_load_in_each_zone(mock: Mock, start: Callable[[], Agent]) -> None:
    mock.zone("intel-rapl:0", "package-0", 5_000_000)
    mock.zone("intel-rapl:0:0", "dram", 7)
    mock.zone("intel-rapl:1:0", "dram", 8)
    agent = start()
    none = {
        "intel-rapl:0": ("package-0", 0),
        "intel-rapl:0:0": ("dram", 0),
        "intel-rapl:1:0": ("dram", 0),
    }
    assert told(agent) == none
    mock.set("intel-rapl:0", 5_000_000 + 12_345_678)
    mock.set("intel-rapl:1:0", 10)
    grown = {"intel-rapl:0": ("package-0", 12_345_678), "intel-rapl:1:0": ("dram", 2)}
    assert told(agent) == none | grown


def test_a_counter_that_begins_anew_is_added_up(mock: Mock, start: Callable[[], Agent]) -> None:
    mock.zone("intel-rapl:0", "package-0", 900, most=999)
    agent = start()
    expected = 0
    last = 900
    for number in (950, 50, 999, 0, 700, 699):
        told(agent)
        mock.set("intel-rapl:0", number)
        expected += (number - last) % 1000
        last = number
        assert told(agent) == {"intel-rapl:0": ("package-0", expected)}
    assert expected == 50 + 100 + 949 + 1 + 700 + 999


def test_a_worker_that_dies_loses_nothing(mock: Mock, start: Callable[[], Agent]) -> None:
    mock.zone("intel-rapl:0", "package-0", 100, most=999)
    agent = start()
    told(agent)
    for number in (800, 600):  # once around
        mock.set("intel-rapl:0", number)
        told(agent)
    worker = agent.child("bpfleet.worker")
    os.kill(worker, signal.SIGKILL)
    mock.set("intel-rapl:0", 610)
    agent.child("bpfleet.worker", other_than=worker)
    assert told(agent) == {"intel-rapl:0": ("package-0", 1510)}


def test_what_is_no_counter_is_passed_over(mock: Mock, start: Callable[[], Agent], tmp_path: Path) -> None:
    mock.zone("intel-rapl:0", "package-0", 1)
    mock.zone("intel-rapl:1", "package-1", 1)
    (mock.folder / "powercap" / "intel-rapl:1" / "energy_uj").write_text("no number\n")
    (mock.folder / "powercap" / "intel-rapl:2").mkdir()
    # A file of another place: root opens no such file for a worker that may not.
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("42\n")
    (mock.folder / "powercap" / "intel-rapl:3").mkdir()
    (mock.folder / "powercap" / "intel-rapl:3" / "energy_uj").symlink_to(elsewhere)
    assert set(told(start())) == {"intel-rapl:0"}


@pytest.mark.skipif(Path("/sys/class/powercap/intel-rapl").exists(), reason="this machine has RAPL")
def test_without_rapl_there_are_no_rows() -> None:
    done = run("once", "cputime", "--after", "100ms", "--format", "json")
    assert done.returncode == 0
    (line,) = [one for one in done.stdout.splitlines() if '"map":"energy","' in one and '"rows"' in one]
    assert '"rows":[]' in line

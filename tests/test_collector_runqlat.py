"""runqlat, on the real kernel: against /proc/PID/schedstat, to the nanosecond, and libbpf-tools' runqlat."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from agent_process import Agent, run
from watched import Tool, comm_of

Start = Callable[..., Agent]
CONFIG = '[agent]\ninterval = "100ms"\n[collectors.runqlat]\n'

WORK = """
import os, sys, time
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
for line in sys.stdin:
    until = time.process_time() + float(line)
    while time.process_time() < until:
        pass
    print("done", flush=True)
"""


class Workers:
    """Processes that share one CPU, under a name of their own; they sleep but when told to work."""

    def __init__(self, program: Path, number: int) -> None:
        self.processes = [
            subprocess.Popen(
                [program, "-c", WORK], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
            )
            for _ in range(number)
        ]
        self.work(0.001)

    def work(self, seconds: float) -> None:
        """Use so much CPU time, each; back when all sleep again."""
        for one in self.processes:
            assert one.stdin is not None
            one.stdin.write(f"{seconds}\n")
        for one in self.processes:
            assert one.stdout is not None
            assert one.stdout.readline() == "done\n"
        for one in self.processes:
            while Path(f"/proc/{one.pid}/stat").read_text().rpartition(")")[2].split()[0] != "S":
                pass

    def waited(self) -> tuple[int, int]:
        """(times that they got the CPU, ns that they waited for it), as the scheduler says."""
        said = [Path(f"/proc/{one.pid}/schedstat").read_text().split() for one in self.processes]
        return sum(int(one[2]) for one in said), sum(int(one[1]) for one in said)


@pytest.fixture
def program(tmp_path: Path) -> Path:
    made = tmp_path / f"wait{os.getpid()}"
    made.symlink_to("/usr/bin/python3")
    return made


@contextmanager
def working(program: Path, number: int) -> Iterator[Workers]:
    workers = Workers(program, number)
    try:
        yield workers
    finally:
        for one in workers.processes:
            one.communicate("")


def told(rows: list[dict[str, Any]], name: str, value: str) -> tuple[int, int]:
    """(count, wait_ns) of one row; zeros where it is absent."""
    found = [row for row in rows if row[name] == value]
    assert len(found) <= 1
    assert all(sum(row["slots"]) == row["count"] for row in found)
    return (found[0]["count"], found[0]["wait_ns"]) if found else (0, 0)


def increase(before: tuple[int, int], after: tuple[int, int]) -> tuple[int, int]:
    return after[0] - before[0], after[1] - before[1]


def test_waits_are_those_of_schedstat_to_the_nanosecond(start_agent: Start, program: Path) -> None:
    agent = start_agent(CONFIG)
    agent.next_snapshot("runqlat", "commands")
    with working(program, 3) as workers:

        def ours() -> tuple[int, int]:
            return told(agent.next_snapshot("runqlat", "commands")["rows"], "comm", comm_of(program))

        first = ours(), workers.waited()
        workers.work(0.3)
        snapshot, last = ours(), workers.waited()
        grown = increase(first[1], last)
        assert increase(first[0], snapshot) == grown
    # Each used 0.3 s of one CPU, so that each waited at least while the two others worked.
    assert grown[1] >= 3 * 2 * 0.25e9


def test_the_histogram_is_that_of_libbpf_tools(start_agent: Start, program: Path) -> None:
    agent = start_agent(CONFIG)
    agent.next_snapshot("runqlat", "commands")
    with working(program, 2) as workers:
        pid = workers.processes[0].pid
        other = workers.processes.pop()

        def row() -> dict[str, Any]:
            rows = agent.next_snapshot("runqlat", "commands")["rows"]
            return next(one for one in rows if one["comm"] == comm_of(program))

        with Tool("/usr/sbin/runqlat", "-p", str(pid)) as tool:
            tool.wait_for(lambda text: "Tracing" in text)
            workers.processes.append(other)
            before, since = row()["slots"], workers.waited()
            workers.work(0.4)
            after, until = row()["slots"], workers.waited()
            said = tool.end()
    theirs = {int(low): int(n) for low, n in re.findall(r"^\s*(\d+) -> \d+\s*: (\d+)", said, re.MULTILINE)}
    runs = until[0] - since[0]
    # It tells one of the two processes; they share the CPU, so each gets it about as often.
    assert sum(after) - sum(before) == runs
    assert sum(theirs.values()) == pytest.approx(runs / 2, rel=0.2, abs=5)
    # Long waits, of which there is one per time slice: as many, within a fifth.
    long_ones = sum(n for low, n in theirs.items() if low >= 1024)
    ours = sum(after[10:]) - sum(before[10:])
    assert ours / 2 == pytest.approx(long_ones, rel=0.2, abs=4)


def test_cgroups_are_told_where_the_setting_wants_them(
    start_agent: Start, program: Path, cgroup: Path
) -> None:
    agent = start_agent(CONFIG + "cgroups = true\n")
    agent.next_snapshot("runqlat", "cgroups")
    with working(program, 2) as workers:
        for one in workers.processes:
            (cgroup / "cgroup.procs").write_text(str(one.pid))

        def ours() -> tuple[int, int]:
            rows = agent.next_snapshot("runqlat", "cgroups")["rows"]
            return told(rows, "cgroup_id_cgroup", f"/{cgroup.name}")

        workers.work(0.001)
        first = ours(), workers.waited()
        workers.work(0.1)
        assert increase(first[0], ours()) == increase(first[1], workers.waited())


def test_cgroups_are_not_told_where_nobody_asked(start_agent: Start) -> None:
    agent = start_agent(CONFIG)
    assert agent.next_snapshot("runqlat", "commands")["rows"]
    assert agent.next_snapshot("runqlat", "cgroups")["rows"] == []


def test_a_setting_of_the_wrong_type_is_told(tmp_path: Path) -> None:
    config = tmp_path / "bpfleet.toml"
    config.write_text('[collectors.runqlat]\ncgroups = "yes"\n[sinks.stdout]\n')
    done = run("check", "--no-load", str(config))
    assert done.returncode == 2
    assert "cgroups" in done.stderr + done.stdout

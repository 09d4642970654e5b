"""exit, on the real kernel: against ends that wait(2) told, and against libbpf-tools' exitsnoop."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent_process import Agent
from watched import Tool, comm_of

Start = Callable[..., Agent]
CONFIG = '[agent]\ninterval = "100ms"\n[collectors.exit]'


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that ends as it is told to, and whose name nobody else on this machine has."""
    made = tmp_path_factory.mktemp("ends") / f"ends{os.getpid()}"
    source = Path(__file__).with_name("process_ends.c")
    subprocess.run(["cc", "-O2", "-pthread", "-o", made, source], check=True)
    return made


def rows_of(snapshot: dict[str, Any], program: Path) -> dict[tuple[int, str], dict[str, Any]]:
    """Rows of one command by (exit status, signal)."""
    found = [row for row in snapshot["rows"] if row["comm"] == comm_of(program)]
    return {(row["code"], row["signal_signal"]): row for row in found}


def counts(snapshot: dict[str, Any], program: Path) -> dict[tuple[int, str], int]:
    return {key: row["count"] for key, row in rows_of(snapshot, program).items()}


def test_each_end_is_counted_once_with_the_status_that_wait_tells(start_agent: Start, ends: Path) -> None:
    agent = start_agent(CONFIG)
    agent.next_snapshot("exit", "exits")
    told: Counter[tuple[int, str]] = Counter()
    for arguments in [["status", str(n)] for n in (0, 0, 0, 1, 1, 255)] + [
        ["signal", str(int(n))] for n in (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1, 40)
    ]:
        status = subprocess.run([ends, *arguments], check=False).returncode
        number = max(0, -status)
        name = f"SIGRTMIN+{number - 34}" if number > 33 else signal.Signals(number).name if number else ""
        told[max(0, status), name] += 1
    assert sum(told.values()) == 11
    snapshot = agent.next_snapshot("exit", "exits")
    assert counts(snapshot, ends) == told
    assert snapshot["losses"] == {"failed_insert": 0}


def test_a_core_dump_is_told(start_agent: Start, ends: Path, tmp_path: Path) -> None:
    agent = start_agent(CONFIG)
    agent.next_snapshot("exit", "exits")
    for limit in (0, -1):
        script = f"import os, resource; os.chdir({str(tmp_path)!r})\n"
        script += f"resource.setrlimit(resource.RLIMIT_CORE, ({limit}, {limit}))\n"
        script += f"os.execv({str(ends)!r}, ['x', 'signal', '6'])"
        pid = os.posix_spawn("/usr/bin/python3", ["python3", "-c", script], os.environ)
        _, status = os.waitpid(pid, 0)
        row = rows_of(agent.next_snapshot("exit", "exits"), ends)[0, "SIGABRT"]
        assert row["dumped"] == int(os.WCOREDUMP(status))


def test_a_process_of_many_threads_ends_once_however_they_end(start_agent: Start, ends: Path) -> None:
    agent = start_agent(CONFIG)
    before = agent.next_snapshot("exit", "exits")
    assert not counts(before, ends)
    for _ in range(30):
        assert subprocess.run([ends, "threads", "8"], check=False).returncode == 0
    # The first thread was there before the others, and its status is not that of the process.
    first = subprocess.run([ends, "first"], check=False).returncode
    # The first thread is ended by the exec of another one, which takes its place; the process lives on.
    replaced = [subprocess.run([ends, "exec"], check=False).returncode for _ in range(5)]
    assert replaced == [9] * 5
    snapshot = agent.next_snapshot("exit", "exits")
    found = counts(snapshot, ends)
    found |= {(9, ""): found.get((9, ""), 0) + counts(snapshot, Path("exe")).get((9, ""), 0)}
    assert found == {(0, ""): 30, (first, ""): 1, (9, ""): 5}


def test_the_lifetime_is_that_between_fork_and_end(start_agent: Start, ends: Path) -> None:
    agent = start_agent(CONFIG)
    agent.next_snapshot("exit", "exits")
    began = time.monotonic_ns()
    for _ in range(4):
        subprocess.run([ends, "sleep", "150"], check=True)
    took = time.monotonic_ns() - began
    row = rows_of(agent.next_snapshot("exit", "exits"), ends)[0, ""]
    assert row["count"] == sum(row["slots"]) == 4
    assert 4 * 150_000_000 <= row["lifetime_ns"] <= took
    # 2^17 us are 131 ms
    assert sum(row["slots"][17:]) == 4


def test_counts_are_those_of_exitsnoop_under_many_at_once(start_agent: Start, ends: Path) -> None:
    agent = start_agent(CONFIG)
    agent.next_snapshot("exit", "exits")
    with Tool("/usr/sbin/exitsnoop") as tool:
        tool.wait_until_it_sees(lambda: subprocess.run([ends, "status", "77"], check=False), comm_of(ends))

        def run() -> None:
            for i in range(100):
                subprocess.run([ends, "status", str(i % 3)], check=False)

        threads = [threading.Thread(target=run) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        subprocess.run([ends, "status", "78"], check=False)
        tool.wait_for(lambda text: "code 78" in text)
        seen = Counter(
            line.split()[-1] for line in tool.text.splitlines() if line.startswith(comm_of(ends) + " ")
        )
    found = counts(agent.next_snapshot("exit", "exits"), ends)
    assert {str(code): count for (code, _), count in found.items() if code < 77} == {
        code: count for code, count in seen.items() if code not in ("77", "78")
    }
    assert sum(count for (code, _), count in found.items() if code < 77) == 300


def test_ends_are_told_by_cgroup(start_agent: Start, ends: Path, cgroup: Path) -> None:
    agent = start_agent(CONFIG)
    agent.next_snapshot("exit", "cgroups")
    inside = 'echo $$ > "$1/cgroup.procs"; shift; exec "$@"'
    for arguments in (["status", "0"], ["status", "0"], ["status", "3"], ["signal", "9"]):
        subprocess.run(["/bin/sh", "-c", inside, "sh", cgroup, ends, *arguments], check=False)
    rows = agent.next_snapshot("exit", "cgroups")["rows"]
    (row,) = [row for row in rows if row["cgroup_id_cgroup"] == f"/{cgroup.name}"]
    assert row["cgroup_id"] == cgroup.stat().st_ino
    assert (row["count"], row["failed"], row["killed"]) == (4, 1, 1)

"""syscalls: a program that makes known calls is the source, and libbpf-tools' syscount at the same time."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from agent_process import Agent, run
from tool_process import attached_programs, interrupted, tool_running

Start = Callable[..., Agent]
KNOWN = Path(__file__).with_name("known_calls.c")


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, under a name that nobody else on this machine has."""
    made = tmp_path_factory.mktemp("bin") / f"k{os.getpid()}"
    subprocess.run(["gcc", "-O1", "-o", made, KNOWN], check=True)
    return made


@contextmanager
def waiting(*command: str | Path) -> Iterator[subprocess.Popen[str]]:
    """The program, ready and waiting for a line."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        process.stdout.readline()
        yield process
    finally:
        process.kill()
        process.communicate()


def go(process: subprocess.Popen[str]) -> None:
    process.communicate("go\n", timeout=60)
    assert process.returncode == 0


def calls_of(snapshot: dict[str, Any], comm: str) -> dict[str, dict[str, Any]]:
    return {row["nr_syscall"]: row for row in snapshot["rows"] if row["comm"] == comm}


def test_known_calls_are_counted_by_command_and_name_with_their_errors(
    start_agent: Start, known: Path
) -> None:
    agent = start_agent('[agent]\ninterval = "200ms"\n[collectors.syscalls]')
    with waiting(known) as process:
        before = calls_of(agent.next_snapshot("syscalls", "calls"), known.name)
        go(process)
    snapshot = agent.next_snapshot("syscalls", "calls")
    after = calls_of(snapshot, known.name)
    failures = agent.next_snapshot("syscalls", "errors")
    errors = {
        (row["nr_syscall"], row["error_errno"]): row["count"]
        for row in failures["rows"]
        if row["comm"] == known.name
    }
    counts = {name: row["count"] for name, row in after.items()}
    assert counts["getppid"] == 1000
    assert counts["nanosleep"] == 20
    assert counts["exit_group"] == 1 + 9
    # A child, too, comes back from the call that made it: that is not one more.
    assert counts["clone"] == counts["wait4"] == 9
    assert counts["getpgid"] == 37
    assert counts["invalid"] == 15
    assert counts["close"] == 23 + before.get("close", {"count": 0})["count"]
    assert errors["getpgid", "ESRCH"] == 37
    assert errors["close", "EBADF"] == 23
    assert errors["invalid", "ENOSYS"] == 15
    assert [after[name]["failed"] for name in ("getppid", "nanosleep", "getpgid")] == [0, 0, 37]
    assert snapshot["losses"] == failures["losses"] == {"failed_insert": 0}


def test_durations_are_where_the_calls_spent_their_time(start_agent: Start, known: Path) -> None:
    agent = start_agent('[agent]\ninterval = "200ms"\n[collectors.syscalls]')
    with waiting(known) as process:
        agent.next_snapshot("syscalls", "calls")
        go(process)
    rows = calls_of(agent.next_snapshot("syscalls", "calls"), known.name)
    slept = rows["nanosleep"]
    # 20 sleeps of 3 ms: none is shorter, whatever the load; slot 21 begins at 2.1 ms.
    assert slept["total_ns"] >= 20 * 3_000_000
    assert sum(slept["slots"]) == slept["count"] == 20
    assert sum(slept["slots"][:21]) == 0
    quick = rows["getppid"]
    assert sum(quick["slots"]) == 1000
    assert quick["total_ns"] / quick["count"] < slept["total_ns"] / slept["count"] / 10
    # What never returns has no duration.
    assert rows["exit_group"]["total_ns"] == sum(rows["exit_group"]["slots"]) == 0


@pytest.mark.skipif(platform.machine() != "x86_64", reason="int 0x80 is x86's")
def test_a_32_bit_call_is_not_taken_for_another_with_its_number(start_agent: Start, known: Path) -> None:
    with waiting(known, "compat") as process:
        if process.communicate("go\n", timeout=60) and process.returncode < 0:
            pytest.skip("this kernel has no 32-bit calls (CONFIG_IA32_EMULATION)")
    agent = start_agent('[agent]\ninterval = "200ms"\n[collectors.syscalls]')
    with waiting(known, "compat") as process:
        agent.next_snapshot("syscalls", "calls")
        go(process)
    rows = calls_of(agent.next_snapshot("syscalls", "calls"), known.name)
    assert rows["i386:getpid"]["count"] == 11
    assert "writev" not in rows


def test_calls_that_seccomp_refuses_are_counted_too(start_agent: Start, known: Path) -> None:
    agent = start_agent('[agent]\ninterval = "200ms"\n[collectors.syscalls]')
    with waiting(known, "refused") as process:
        agent.next_snapshot("syscalls", "calls")
        go(process)
    refused = calls_of(agent.next_snapshot("syscalls", "calls"), known.name)["getsid"]
    assert (refused["count"], refused["failed"], sum(refused["slots"])) == (13, 13, 0)


def test_one_process_only(start_agent: Start, known: Path) -> None:
    with waiting(known) as mine, waiting(known) as other:
        agent = start_agent(f'[agent]\ninterval = "200ms"\n[collectors.syscalls]\npid = {mine.pid}\n')
        agent.next_snapshot("syscalls", "calls")
        go(mine)
        go(other)
    snapshot = agent.next_snapshot("syscalls", "calls")
    assert {row["comm"] for row in snapshot["rows"]} == {known.name}
    assert calls_of(snapshot, known.name)["getppid"]["count"] == 1000


@pytest.mark.parametrize("pid", [-1, 1 << 22])
def test_a_process_id_that_can_not_be(tmp_path: Path, pid: int) -> None:
    config = tmp_path / "bpfleet.toml"
    config.write_text(f"[collectors.syscalls]\npid = {pid}\n")
    done = run("check", str(config))
    assert done.returncode != 0
    assert "a process id is below" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_syscount_says_the_same_of_the_same_time(start_agent: Start, known: Path) -> None:
    tool = shutil.which("syscount", path="/usr/sbin:/usr/bin")
    assert tool is not None, "libbpf-tools is in the Makefile's TEST_PACKAGES"
    agent = start_agent('[agent]\ninterval = "200ms"\n[collectors.syscalls]')
    with waiting(known) as process, tool_running(tool, "-p", str(process.pid), "-T", "400") as counting:
        before = calls_of(agent.next_snapshot("syscalls", "calls"), known.name)
        agent.wait_for(lambda: attached_programs(counting.pid) >= 2)
        go(process)
        printed = interrupted(counting)
    after = calls_of(agent.next_snapshot("syscalls", "calls"), known.name)
    theirs = {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", printed, re.MULTILINE)}
    for name in ("getppid", "getpgid", "nanosleep", "close"):
        mine = after[name]["count"] - before.get(name, {"count": 0})["count"]
        assert mine == theirs[name], printed

"""Processes that end on this kernel: `exit` against wait(2), `oom` against the cgroup and /proc/vmstat."""

from __future__ import annotations

import os
import signal
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from oom_victims import VMSTAT, kill_for_memory, oom_kills
from running import Running
from watched import cgroup_v2, comm_of, new_cgroup


def rows_of(running: Running, collector: str, name: str, program: Path) -> list[dict[str, Any]]:
    rows = running.agent.next_snapshot(collector, name)["rows"]
    return [row for row in rows if row["comm"] == comm_of(program)]


def test_ends_are_counted_with_the_status_that_wait_tells(running: Running, tmp_path: Path) -> None:
    program = tmp_path / f"ends{os.getpid()}"
    program.symlink_to("/bin/sh")
    told: Counter[tuple[int, str]] = Counter()
    for command in ("exit 0", "exit 0", "exit 7", "kill -KILL $$", "kill -TERM $$", "kill -TERM $$"):
        status = subprocess.run([program, "-c", command], check=False).returncode
        told[max(0, status), signal.Signals(-status).name if status < 0 else ""] += 1
    assert sum(told.values()) == 6
    rows = rows_of(running, "exit", "exits", program)
    assert {(row["code"], row["signal_signal"]): row["count"] for row in rows} == told


def test_victims_of_a_cgroup_of_version_2_are_counted(running: Running, tmp_path: Path) -> None:
    root = cgroup_v2()
    if root is None or "memory" not in (root / "cgroup.controllers").read_text().split():
        pytest.skip("the memory controller is not cgroup v2's on this machine")
    (root / "cgroup.subtree_control").write_text("+memory")
    program = tmp_path / f"greedy{os.getpid()}"
    program.symlink_to(Path("/usr/bin/python3").resolve())
    with new_cgroup(root) as limited:
        (limited / "memory.max").write_text("30M")
        before = oom_kills(VMSTAT)
        pids = [kill_for_memory(program, limited) for _ in range(2)]
        (row,) = rows_of(running, "oom", "kills", program)
        assert row["count"] == oom_kills(limited / "memory.events") == oom_kills(VMSTAT) - before == 2
        assert row["last_pid"] == pids[-1]
        assert row["cgroup_id"] == limited.stat().st_ino

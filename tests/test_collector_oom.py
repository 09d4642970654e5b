"""oom, on the real kernel: victims in a memory cgroup, against what cgroup and /proc/vmstat count."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent_process import Agent
from bpfleet_plugins.collectors import oom
from oom_victims import VMSTAT, kill_for_memory, oom_kills
from watched import cgroup_v2, comm_of, new_cgroup

Start = Callable[..., Agent]


@dataclass
class Limited:
    """A cgroup that has a limit of memory."""

    memory: Path
    """Its directory where memory is limited; in v1 that is another hierarchy's."""
    v2: bool

    def kills(self) -> int:
        """How many of its processes were killed, as it says itself."""
        return oom_kills(self.memory / ("memory.events" if self.v2 else "memory.oom_control"))


@pytest.fixture
def limited() -> Iterator[Limited]:
    root = cgroup_v2()
    v1 = Path("/sys/fs/cgroup/memory")
    if root is not None and "memory" in (root / "cgroup.controllers").read_text().split():
        (root / "cgroup.subtree_control").write_text("+memory")
        with new_cgroup(root) as made:
            (made / "memory.max").write_text("30M")
            if (made / "memory.swap.max").exists():
                (made / "memory.swap.max").write_text("0")
            yield Limited(made, True)
    elif (v1 / "memory.limit_in_bytes").exists():
        with new_cgroup(v1) as made:
            (made / "memory.limit_in_bytes").write_text("30M")
            yield Limited(made, False)
    else:
        pytest.skip("no memory controller is mounted, neither of cgroup v2 nor of v1")


@pytest.mark.parametrize("rung", ["as it is", "by pid alone"])
def test_each_victim_is_counted_by_command_and_cgroup(
    start_agent: Start, limited: Limited, tmp_path: Path, cgroup: Path, rung: str
) -> None:
    """By pid alone: the second alternative, as on kernels whose tracepoint tells no more; it loads on all."""
    name = "oom"
    if rung == "by pid alone":
        name = "by_pid"
        source = Path(oom.__file__).with_name("oom.bpf.c").read_text()
        first = 'SEC("tp_btf/mark_victim")'
        assert first in source
        (tmp_path / "by_pid.bpf.c").write_text(source.replace(first, first.replace("tp_btf", "?tp_btf")))
        words = '[ladders]\nvictims = [["on_victim_pid", "on_victim_end"]]\n'
        words += '[maps.kills.fields.cgroup_id]\nmeaning = "label"\ndecode = "cgroup"\n'
        (tmp_path / "by_pid.toml").write_text(words)
    table = str(tmp_path / "by_pid.bpf.c") if name == "by_pid" else name
    agent = start_agent(f'[agent]\ninterval = "100ms"\n[collectors."{table}"]\n')
    agent.next_snapshot(name, "kills")
    program = tmp_path / f"greedy{os.getpid()}"
    program.symlink_to("/usr/bin/python3")
    all_before, before = oom_kills(VMSTAT), limited.kills()
    here = limited.memory if limited.v2 else cgroup
    pids = [kill_for_memory(program, limited.memory, here) for _ in range(3)]
    snapshot = agent.next_snapshot(name, "kills")
    rows = [row for row in snapshot["rows"] if row["comm"] == comm_of(program)]
    assert limited.kills() - before == oom_kills(VMSTAT) - all_before == 3
    (row,) = rows
    assert row["count"] == 3
    assert row["last_pid"] == pids[-1]
    assert row["cgroup_id_cgroup"] == f"/{here.name}"
    assert row["cgroup_id"] == here.stat().st_ino
    assert 0 < row["last_ns"] < snapshot["t1"]
    assert sum(one["count"] for one in snapshot["rows"]) == oom_kills(VMSTAT) - all_before


def test_the_first_alternative_is_taken_where_the_kernel_tells_the_victim(start_agent: Start) -> None:
    agent = start_agent('[agent]\ninterval = "100ms"\n[collectors.oom]\n')
    agent.next_snapshot("oom", "kills")
    (said,) = [one for one in agent.status()["collectors"] if one["name"] == "oom"]
    (ladder,) = said["ladders"]
    types = subprocess.run(
        ["bpftool", "btf", "dump", "file", "/sys/kernel/btf/vmlinux", "format", "c"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    victim = "(*btf_trace_mark_victim)(void *, struct task_struct *"
    assert ladder["rung"] == (1 if victim in types else 2)


def test_other_ends_are_no_victims(start_agent: Start) -> None:
    agent = start_agent('[agent]\ninterval = "100ms"\n[collectors.oom]\n')
    before = agent.next_snapshot("oom", "kills")
    with subprocess.Popen(["sleep", "60"]) as process:
        process.kill()
    assert agent.next_snapshot("oom", "kills")["rows"] == before["rows"] == []

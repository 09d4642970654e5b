"""profile, on the real kernel: against a program whose functions use known shares of a known CPU time."""

from __future__ import annotations

import os
import platform
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent_process import BPFLEET, PATIENCE, Agent, run
from time_spender import Spender, built

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="the program is x86-64's")

Start = Callable[..., Agent]
CONFIG = '[agent]\ninterval = "200ms"\n[collectors.profile]\n'
HERTZ = 99
TICK = 1e9 / os.sysconf("SC_CLK_TCK")


@pytest.fixture(scope="module")
def program() -> Iterator[Path]:
    with built() as made:
        yield made


def samples(agent: Agent, pid: int) -> dict[str, int]:
    """Samples of a process, by stack."""
    rows = [row for row in agent.next_snapshot("profile", "samples")["rows"] if row["tgid"] == pid]
    texts = {
        row["stack"]: row["text"]
        for one in agent.snapshots("profile", "samples_stacks")
        for row in one["rows"]
    }
    found: dict[str, int] = {}
    for row in rows:
        text = texts[row["stack"]]
        found[text] = found.get(text, 0) + row["samples"]
    return found


def totals(agent: Agent, pid: int) -> tuple[int, int]:
    """(samples, the CPU time that they stand for in ns) of a process."""
    rows = [row for row in agent.next_snapshot("profile", "samples")["rows"] if row["tgid"] == pid]
    return sum(row["samples"] for row in rows), sum(row["cpu_ns"] for row in rows)


def burnt(spender: Spender, ms: int) -> float:
    """Be busy; returns the ns of CPU time that it took, as /proc/PID/stat tells, in clock ticks."""
    before = int(spender.stat(11)) + int(spender.stat(12))
    spender.spend("burn", ms)
    return (int(spender.stat(11)) + int(spender.stat(12)) - before) * TICK


def inside(found: dict[str, int], *functions: str) -> int:
    return sum(count for text, count in found.items() if set(functions) & set(text.split(";")))


def test_functions_get_their_share_of_the_samples(start_agent: Start, program: Path) -> None:
    agent = start_agent(CONFIG)
    agent.next_snapshot("profile", "samples")
    with Spender(program) as spender:
        _, on_cpu = spender.spend("burn", 4000)
        found = samples(agent, spender.pid)
    count = inside(found, "burn")
    # 396 samples. Their number is that of the CPU time within a tenth; the share of the function that has
    # three quarters of it is off by at most a tenth of the whole, which is 4.5 standard deviations.
    assert count == pytest.approx(on_cpu / 1e9 * HERTZ, rel=0.1)
    assert inside(found, "burn_more") / count == pytest.approx(0.75, abs=0.1)
    assert inside(found, "burn_more", "burn_less") / count > 0.95
    assert any(text.endswith("main;burn;burn_more") for text in found)


@pytest.mark.parametrize("hertz", [49, 99, 997])
def test_samples_come_at_the_frequency_of_the_settings_and_say_what_they_stand_for(
    start_agent: Start, program: Path, hertz: int
) -> None:
    agent = start_agent(CONFIG + f"frequency = {hertz}\n")
    agent.next_snapshot("profile", "samples")
    with Spender(program) as spender:
        before = totals(agent, spender.pid)
        spent = burnt(spender, 3000)
        count, cpu_ns = (after - at for after, at in zip(totals(agent, spender.pid), before, strict=True))
    # A sample more or less at both ends, a tick of /proc/PID/stat, and 5 % for what samples fall on.
    assert count == pytest.approx(spent / 1e9 * hertz, rel=0.05, abs=3)
    assert cpu_ns == count * (10**9 // hertz)
    assert cpu_ns == pytest.approx(spent, rel=0.05, abs=3e9 / hertz)


def test_a_reload_takes_another_frequency(start_agent: Start, program: Path) -> None:
    agent = start_agent(CONFIG + "frequency = 49\n")
    first = agent.next_snapshot("profile", "samples")["generation"]
    agent.write_config(CONFIG + "frequency = 499\n")
    agent.process.send_signal(signal.SIGHUP)
    agent.wait_for(lambda: agent.snapshots("profile", "samples")[-1]["generation"] > first)
    with Spender(program) as spender:
        spent = burnt(spender, 2000)
        count, cpu_ns = totals(agent, spender.pid)
    assert count == pytest.approx(spent / 1e9 * 499, rel=0.05, abs=3)
    assert cpu_ns == count * (10**9 // 499)


def test_more_samples_than_the_kernel_allows_are_refused_with_the_remedy(start_agent: Start) -> None:
    limit = Path("/proc/sys/kernel/perf_event_max_sample_rate")
    allowed = limit.read_text()
    limit.write_text("150")
    try:
        agent = start_agent(CONFIG + "frequency = 151\n")
        agent.wait_for(lambda: "does not run" in agent.stderr)
    finally:
        limit.write_text(allowed)
    assert "'on_sample' is to run 151 times a second; this kernel allows 150" in agent.stderr
    assert f"ask for fewer, or raise {limit}" in agent.stderr
    assert "Traceback" not in agent.stderr


def test_time_in_the_kernel_has_the_stacks_of_both(start_agent: Start, program: Path) -> None:
    agent = start_agent(CONFIG)
    agent.next_snapshot("profile", "samples")
    with Spender(program) as spender:
        spender.spend("kernel", 800)
        found = samples(agent, spender.pid)
    inner = {text: count for text, count in found.items() if text.endswith("_[k]")}
    assert sum(inner.values()) >= 0.5 * 0.8 * HERTZ
    assert any({"main", "read_zeros"} <= set(text.split(";")) for text in inner), inner


def test_samples_are_told_by_cgroup(start_agent: Start, program: Path, cgroup: Path) -> None:
    agent = start_agent(CONFIG)
    agent.next_snapshot("profile", "samples")
    with Spender(program) as spender:
        before = sum(samples(agent, spender.pid).values())
        (cgroup / "cgroup.procs").write_text(str(spender.pid))
        spender.spend("burn", 500)
        grown = sum(samples(agent, spender.pid).values()) - before
        rows = agent.next_snapshot("profile", "cgroups")["rows"]
    (row,) = [row for row in rows if row["cgroup_id_cgroup"] == f"/{cgroup.name}"]
    # Between the reading before and the change of cgroup the process slept.
    assert row["samples"] == grown
    assert grown > 0.5 * 0.5 * HERTZ


def test_once_prints_lines_for_flame_graphs(program: Path, tmp_path: Path) -> None:
    config = tmp_path / "bpfleet.toml"
    with Spender(program) as spender:
        config.write_text(f"[collectors.profile]\npid = {spender.pid}\n")
        with subprocess.Popen(
            [BPFLEET, "once", "profile", "--config", config, "--after", "2s", "--format", "folded"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as once:
            while once.poll() is None:
                spender.spend("burn", 100)
            assert once.stdout is not None
            assert once.stderr is not None
            printed, errors = once.stdout.read(), once.stderr.read()
    assert once.returncode == 0, errors
    lines = [re.fullmatch(rf"({spender.comm}(?:;[^;]+)*) (\d+)", line) for line in printed.splitlines()]
    assert lines
    assert all(lines), printed
    found = {one.group(1): int(one.group(2)) for one in lines if one}
    assert len(found) == len(lines)
    assert inside(found, "burn_more") > inside(found, "burn_less") > 0


def test_every_cpu_is_sampled(start_agent: Start, program: Path) -> None:
    agent = start_agent(CONFIG)
    agent.next_snapshot("profile", "samples")
    for cpu in sorted(os.sched_getaffinity(0)):
        with Spender(program, cpu=cpu) as spender:
            spender.spend("burn", 300)
            assert sum(samples(agent, spender.pid).values()) >= 15 / PATIENCE


@pytest.mark.parametrize(
    "wrong", ["pid = -1", "pid = 4194304", "frequency = 0", "frequency = 10001", "frequenzy = 9"]
)
def test_settings_that_can_not_be_are_told(tmp_path: Path, wrong: str) -> None:
    config = tmp_path / "bpfleet.toml"
    config.write_text(f"[collectors.profile]\n{wrong}\n[sinks.stdout]\n")
    done = run("check", "--no-load", str(config))
    assert done.returncode == 2
    assert wrong.split()[0] in done.stderr + done.stdout

"""offcpu, on the real kernel: against sleeps of known length, clocks, and /proc/PID/schedstat."""

from __future__ import annotations

import os
import platform
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent_process import Agent, run
from time_spender import Spender, built

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="the program is x86-64's")

Start = Callable[..., Agent]
CONFIG = '[agent]\ninterval = "200ms"\n[collectors.offcpu]\n'


@pytest.fixture(scope="module")
def program() -> Iterator[Path]:
    with built() as made:
        yield made


class Told:
    """What the collector has told of one process, by state."""

    def __init__(self, agent: Agent, pid: int) -> None:
        snapshot = agent.next_snapshot("offcpu", "waits")
        self.rows = [row for row in snapshot["rows"] if row["tgid"] == pid]
        texts = {
            row["stack"]: row["text"]
            for one in agent.snapshots("offcpu", "waits_stacks")
            for row in one["rows"]
        }
        self.texts = {texts[row["stack"]]: row["off_ns"] for row in self.rows}

    def ns(self, state: str) -> int:
        return sum(row["off_ns"] for row in self.rows if row["state"] == state)

    def where(self, function: str) -> int:
        """ns off CPU in stacks that have the function."""
        return sum(ns for text, ns in self.texts.items() if f";{function};" in text)

    @property
    def all(self) -> int:
        return sum(row["off_ns"] for row in self.rows)


def test_a_sleep_is_as_long_as_it_was_where_it_was(start_agent: Start, program: Path) -> None:
    agent = start_agent(CONFIG)
    agent.next_snapshot("offcpu", "waits")
    with Spender(program) as spender:
        before = Told(agent, spender.pid)
        wall = sum(spender.spend("nap", 60)[0] for _ in range(5))
        after = Told(agent, spender.pid)
    slept = after.where("nap_here") - before.where("nap_here")
    assert 5 * 60_000_000 <= slept <= wall
    (text,) = [one for one in after.texts if ";nap_here;" in one]
    assert text.startswith(f"{spender.comm};")
    assert "main;nap_here;" in text
    assert text.endswith("_[k]")
    assert "bpf_prog" not in text


def test_off_cpu_and_on_cpu_are_all_time_that_there_was(start_agent: Start, program: Path) -> None:
    agent = start_agent(CONFIG + "preempted = true\n")
    agent.next_snapshot("offcpu", "waits")
    cpu = min(os.sched_getaffinity(0))
    with Spender(program, cpu=cpu) as spender, Spender(program, cpu=cpu) as rival:
        before, delay = Told(agent, spender.pid), spender.run_delay()
        began = time.monotonic_ns()
        rival.begin("burn", 400)
        spender.begin("burn", 400)
        wall, on_cpu = spender.end()
        rival.end()
        spender.spend("nap", 1)
        took = time.monotonic_ns() - began
        after, delayed = Told(agent, spender.pid), spender.run_delay() - delay
    preempted = after.ns("R") - before.ns("R")
    # While it burns it never sleeps: what its clocks leave is the time that it was preempted.
    assert preempted == pytest.approx(wall - on_cpu, rel=0.05, abs=10_000_000)
    # Of what the scheduler says a few waits follow a wakeup, and are part of the sleep here.
    assert preempted == pytest.approx(delayed, rel=0.05, abs=10_000_000)
    assert after.all - before.all <= took + 2e9


def test_states_are_told_apart(start_agent: Start, program: Path) -> None:
    agent = start_agent(CONFIG)
    agent.next_snapshot("offcpu", "waits")
    with Spender(program) as spender:
        before = Told(agent, spender.pid)
        spender.begin("burn", 300)
        os.kill(spender.pid, signal.SIGSTOP)
        agent.wait_for(lambda: spender.state() == "T")
        time.sleep(0.25)
        os.kill(spender.pid, signal.SIGCONT)
        spender.end()
        wall, _ = spender.spend("vfork", 200)
        after = Told(agent, spender.pid)
    assert {row["state"] for row in after.rows} <= {"S", "D", "T"}
    assert 200_000_000 <= after.ns("D") - before.ns("D") <= wall
    assert 250_000_000 <= after.ns("T") - before.ns("T") < 5e9


def test_only_the_process_that_is_asked_for_is_told(start_agent: Start, program: Path) -> None:
    with Spender(program) as spender, Spender(program) as other:
        agent = start_agent(CONFIG + f"pid = {spender.pid}\n")
        agent.next_snapshot("offcpu", "waits")
        for one in (spender, other):
            one.spend("nap", 30)
        snapshot: dict[str, Any] = agent.next_snapshot("offcpu", "waits")
    assert {row["tgid"] for row in snapshot["rows"]} == {spender.pid}


@pytest.mark.parametrize("wrong", ["pid = -1", "pid = 4194304", 'preempted = "no"', "pids = 1"])
def test_settings_that_can_not_be_are_told(tmp_path: Path, wrong: str) -> None:
    config = tmp_path / "bpfleet.toml"
    config.write_text(f"[collectors.offcpu]\n{wrong}\n[sinks.stdout]\n")
    done = run("check", "--no-load", str(config))
    assert done.returncode == 2
    assert wrong.split()[0] in done.stderr + done.stdout

"""pyflow: calls and time by function. The source: Python programs that make known calls and tell their own
clock."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from agent_process import PATIENCE, Agent, run

Start = Callable[..., Agent]
PYTHON = "/usr/bin/python3"
SHOWN = Path(__file__).parents[1] / "docs" / "collectors.md"
CONFIG = '[agent]\ninterval = "200ms"\n[collectors.pyflow]\npids = {pids}\n'
PROGRAM = '''
import cProfile, json, sys, threading, time

def leaf():
    return 1

def outer():
    """Calls leaf three times, and takes its time."""
    began = time.perf_counter_ns()
    leaf(); leaf(); leaf()
    until = time.perf_counter_ns() + 2_000_000
    while time.perf_counter_ns() < until:
        pass
    inner()
    return time.perf_counter_ns() - began

def inner():
    until = time.perf_counter_ns() + 3_000_000
    while time.perf_counter_ns() < until:
        pass

def raises():
    raise ValueError

def five():
    yield from ()
    for number in range(5):
        yield number

def down(levels):
    return down(levels - 1) if levels else 0

class Thing:
    def method(self):
        return leaf()

def work():
    took = 0
    for _ in range(20):
        took += outer()
    for _ in range(7):
        try:
            raises()
        except ValueError:
            pass
    list(five())
    down(300)
    for _ in range(11):
        Thing().method()
    return took

profile = cProfile.Profile()
for line in sys.stdin:
    if line.strip() == "profile":
        profile.enable()
    others = []
    for _ in range(4):
        others.append(threading.Thread(target=Thing().method))
        others[-1].start()
    for one in others:
        one.join()
    print(json.dumps(work()), flush=True)
'''


class Program:
    """A program that works when it is told to."""

    def __init__(self, path: Path, environment: Mapping[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            [PYTHON, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
        )
        self.pid = self._process.pid

    def work(self, how: str = "") -> int:
        """How long outer() took, in ns, by its own clock."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(how + "\n")
        self._process.stdin.flush()
        return int(json.loads(self._process.stdout.readline()))

    def end(self) -> None:
        self._process.communicate(timeout=20 * PATIENCE)


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[list[Program]]:
    path = tmp_path / "known.py"
    path.write_text(PROGRAM)
    made = [Program(path) for _ in range(3)]
    for one in made:
        one.work()  # it has been started, and imported all it needs
    yield made
    for one in made:
        one.end()


def functions(agent: Agent, pid: int, path: Path) -> dict[str, dict[str, Any]]:
    rows = agent.next_snapshot("pyflow", "functions")["rows"]
    return {row["name"]: row for row in rows if row["pid"] == pid and row["file"] == str(path)[:95]}


CALLS = {
    "leaf": 20 * 3 + 11 + 4,
    "outer": 20,
    "inner": 20,
    "raises": 7,
    "five": 6,  # as often as it yields, and its end
    "down": 301,
    "method": 11 + 4,
    "work": 1,
}


def calls(found: dict[str, dict[str, Any]]) -> dict[str, int]:
    return {name: row["calls"] for name, row in found.items()}


def test_calls_are_those_of_the_programs_that_are_named(
    start_agent: Start, tmp_path: Path, programs: list[Program]
) -> None:
    one, other, left_alone = programs
    agent = start_agent(CONFIG.format(pids=[one.pid, other.pid]))
    agent.next_snapshot("pyflow", "functions")
    for program in (one, other, other, left_alone):
        program.work()
    path = tmp_path / "known.py"
    assert calls(functions(agent, one.pid, path)) == CALLS
    assert calls(functions(agent, other.pid, path)) == {name: 2 * count for name, count in CALLS.items()}
    assert not functions(agent, left_alone.pid, path)


def test_calls_are_timed_where_the_interpreter_tells_of_entries(
    start_agent: Start, tmp_path: Path, programs: list[Program]
) -> None:
    """CPython 3.11 does so in a thread with a profiler; here that is its own, in C."""
    program = programs[0]
    agent = start_agent(CONFIG.format(pids=[program.pid]))
    agent.next_snapshot("pyflow", "functions")
    took = program.work("profile")
    found = functions(agent, program.pid, tmp_path / "known.py")
    assert calls(found) == CALLS
    outer, inner, leaf, down = (found[name] for name in ("outer", "inner", "leaf", "down"))
    # The other threads have no profiler.
    assert {name: row["timed"] for name, row in found.items()} | {"down": down["timed"]} == CALLS | {
        "leaf": CALLS["leaf"] - 4,
        "method": CALLS["method"] - 4,
        "down": down["timed"],
    }
    # Of the calls inside each other 256 are kept, with those that lead there.
    assert 200 < down["timed"] <= 256
    # The program's clock stands inside of outer(), so it shows a little less.
    assert took <= outer["total_ns"] <= took * 1.2 + 20_000_000
    assert outer["self_ns"] >= 20 * 2_000_000
    assert inner["self_ns"] == inner["total_ns"] >= 20 * 3_000_000
    assert leaf["self_ns"] == leaf["total_ns"]
    assert outer["total_ns"] - outer["self_ns"] >= inner["total_ns"]
    assert found["work"]["total_ns"] >= outer["total_ns"]
    assert 0 < down["self_ns"] < down["total_ns"]


def test_without_a_profiler_cpython_3_11_tells_of_no_entry(
    start_agent: Start, tmp_path: Path, programs: list[Program]
) -> None:
    version = subprocess.run([PYTHON, "--version"], capture_output=True, text=True, check=True).stdout
    if not version.startswith("Python 3.11."):
        pytest.skip(f"this is {version.strip()}")
    program = programs[0]
    agent = start_agent(CONFIG.format(pids=[program.pid]))
    agent.next_snapshot("pyflow", "functions")
    program.work()
    found = functions(agent, program.pid, tmp_path / "known.py")
    assert calls(found) == CALLS
    assert {(row["timed"], row["total_ns"], row["self_ns"]) for row in found.values()} == {(0, 0, 0)}


def test_the_file_shown_has_all_calls_of_all_threads_timed(start_agent: Start, tmp_path: Path) -> None:
    (shown,) = re.findall(r"^```python sitecustomize.py\n(.*?)^```$", SHOWN.read_text(), re.M | re.S)
    (tmp_path / "sitecustomize.py").write_text(shown)
    path = tmp_path / "known.py"
    path.write_text(PROGRAM)
    program = Program(path, {"PYTHONPATH": str(tmp_path)})
    try:
        program.work()
        agent = start_agent(CONFIG.format(pids=[program.pid]))
        agent.next_snapshot("pyflow", "functions")
        took = program.work()
        found = functions(agent, program.pid, path)
    finally:
        program.end()
    assert calls(found) == CALLS
    down = found["down"]["timed"]
    assert {name: row["timed"] for name, row in found.items()} == CALLS | {"down": down}
    assert 200 < down <= 256
    assert took <= found["outer"]["total_ns"] <= took * 1.2 + 20_000_000


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ("", "pids"),
        ("pids = []", "pids"),
        ("pids = [0]", "0 is no process"),
        ('pids = ["init"]', "pids"),
        ("pids = [4194303]", "there is no process 4194303"),
        ('pids = [{own}]\npython = "/nowhere/python3"', "/nowhere/python3"),
    ],
)
def test_settings_that_can_not_be_are_told(tmp_path: Path, settings: str, word: str) -> None:
    config = tmp_path / "bpfleet.toml"
    config.write_text(
        f'[agent]\nstate = "{tmp_path}/state"\n[collectors.pyflow]\n{settings.format(own=os.getpid())}\n'
    )
    done = run("once", "pyflow", "--config", str(config), "--after", "100ms")
    assert done.returncode in (1, 2)
    assert word in done.stderr
    assert "Traceback" not in done.stderr

"""gouprobe: calls of a Go function by its arguments, and goroutines. The source: a Go program that makes
known calls."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent_process import Agent, run
from go_program import build, run_go

Start = Callable[..., Agent]

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="how often a function begins anew is read from x86-64's code"
)


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("go"))


def config(worker: Path, more: str) -> str:
    return (
        f'[agent]\ninterval = "200ms"\n[collectors.gouprobe]\nbinary = "{worker}"\nread = ["batch", "mmap"]\n'
        + more
    )


def totals(agent: Agent) -> dict[str, int]:
    (row,) = agent.next_snapshot("gouprobe", ".bss")["rows"]
    return {name: row[name] for name in ("calls", "goroutines")}


def by_arguments(agent: Agent) -> tuple[dict[tuple[int, str], int], dict[str, int]]:
    """Calls by integer and string; and losses."""
    snapshot: dict[str, Any] = agent.next_snapshot("gouprobe", "by_arguments")
    rows = {(row["integer"], row["string"]): row["count"] for row in snapshot["rows"]}
    return rows, snapshot["losses"]


def test_calls_are_counted_by_their_arguments_and_goroutines_as_they_start(
    start_agent: Start, worker: Path
) -> None:
    agent = start_agent(config(worker, 'symbol = "main.work"\n'))
    totals(agent)
    run_go(worker, 0, 1)
    idle = totals(agent)
    for _ in range(3):
        run_go(worker, 1000, 41)
    rows, losses = by_arguments(agent)
    assert rows == {(number, "odd" if number % 2 else "even"): 3 for number in range(1000)}
    assert losses == {"failed_insert": 0}
    after = totals(agent)
    assert after["calls"] == 3000
    # The runtime's own are the same in each run.
    assert after["goroutines"] - idle["goroutines"] == 3 * (idle["goroutines"] + 41 - 1)


def test_a_function_that_begins_anew_is_counted_once(start_agent: Start, worker: Path) -> None:
    """Every deep() has 200 calls inside it, for which the runtime moves the stack several times."""
    agent = start_agent(config(worker, 'symbol = "main.deep"\ninteger = 1\nstring = -1\n'))
    totals(agent)
    run_go(worker, 4000, 100)
    rows, _ = by_arguments(agent)
    assert rows == {(level, ""): 1000 for level in range(201)}
    assert totals(agent)["calls"] == 1000 * 201


def test_more_arguments_than_there_is_room_for(start_agent: Start, worker: Path) -> None:
    agent = start_agent(config(worker, 'symbol = "main.work"\n'))
    totals(agent)
    run_go(worker, 10_000, 4)
    rows, losses = by_arguments(agent)
    assert (len(rows), losses) == (4096, {"failed_insert": 10_000 - 4096})
    assert totals(agent)["calls"] == 10_000


STACK = r"""
/* Called as Go before 1.17 does: everything on the stack, an integer, then a string's place and length. */
void called(void);
__asm__(".globl called; .type called,@function; called: ret; .size called, .-called");
__asm__(".globl runtime.newproc1; .type runtime.newproc1,@function; runtime.newproc1: ret");

int main(void)
{
	static const char text[] = "seventeen!!";

	for (long at = 0; at < 17; at++)
		__asm__ volatile("sub $24, %%rsp; mov %0, (%%rsp); mov %1, 8(%%rsp); movq $9, 16(%%rsp);"
			"call called; add $24, %%rsp" : : "r"(at % 2 - 1), "r"(text) : "memory", "cc");
	return 0;
}
"""


def test_arguments_on_the_stack(start_agent: Start, tmp_path: Path) -> None:
    """Debian's Go passes them in registers, so the calls are made by hand."""
    source = tmp_path / "stack.c"
    source.write_text(STACK)
    program = tmp_path / "stack"
    subprocess.run(["gcc", "-O1", "-mno-red-zone", "-o", program, source], check=True, timeout=60)
    agent = start_agent(config(program, 'symbol = "called"\narguments = "stack"\n'))
    totals(agent)
    subprocess.run([program], check=True, timeout=60)
    assert by_arguments(agent)[0] == {(-1, "seventeen"): 9, (0, "seventeen"): 8}


def test_one_process_of_the_program(start_agent: Start, worker: Path) -> None:
    """Of this test's, which runs no Go."""
    agent = start_agent(config(worker, f'symbol = "main.work"\npid = {os.getpid()}\n'))
    totals(agent)
    run_go(worker, 100, 1)
    assert totals(agent) == {"calls": 0, "goroutines": 0}


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ("", "binary"),
        ('binary = "/nowhere/program"\nsymbol = "main.main"', "/nowhere/program"),
        ('binary = "{worker}"\nsymbol = "main.wrok"', "main.work"),
        ('binary = "{worker}"\nsymbol = "main.work"\ninteger = 9', "integer is 9"),
        ('binary = "{worker}"\nsymbol = "main.work"\nstring = 8', "string is 8"),
        ('binary = "{worker}"\nsymbol = "main.work"\narguments = "heap"', "arguments"),
    ],
)
def test_settings_that_can_not_be_are_told(tmp_path: Path, worker: Path, settings: str, word: str) -> None:
    file = tmp_path / "bpfleet.toml"
    text = settings.format(worker=worker)
    file.write_text(f'[agent]\nstate = "{tmp_path}/state"\n[collectors.gouprobe]\n{text}\n')
    done = run("once", "gouprobe", "--config", str(file), "--after", "100ms")
    assert done.returncode in (1, 2), os.linesep.join((done.stdout, done.stderr))
    assert word in done.stderr
    assert "Traceback" not in done.stderr

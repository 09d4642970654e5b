"""What makes the events that collectors are measured at: programs of bench/peers.

A `.c` or `.go` runs anew in each round. A `.py` is one process of the system's Python for all rounds, since
its collector has to be told the process.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.peer import SOURCES, compiled

__all__ = ["PYTHON", "Unavailable", "Workload", "workload"]

PYTHON = Path("/usr/bin/python3")
_CAN_NOT = 77
"""A program's exit code where this machine lacks what it takes; it says what on standard error."""


class Unavailable(Exception):
    """These events can't be made on this machine; the message says why."""


@dataclass(frozen=True, slots=True)
class Workload:
    """Makes events: `make()` a round of them."""

    program: Path
    """The file that runs."""
    pid: int
    """The process that makes all rounds; 0 where each has its own."""
    make: Callable[[], None]


@contextmanager
def workload(words: str) -> Iterator[Workload]:
    """The program of bench/peers that `words` begins with (without `.c`, as compiled), with its arguments;
    raises Unavailable."""
    name, *arguments = words.split()
    if not name.endswith(".py"):
        if name.endswith(".go") and shutil.which("go") is None:
            raise Unavailable(f"there is no Go to compile {name}")
        program = compiled(name)
        yield Workload(program, 0, lambda: _run([str(program), *arguments]))
        return
    if not PYTHON.exists() or b"function__entry" not in PYTHON.read_bytes():
        raise Unavailable(f"{PYTHON} has no probes")
    process = subprocess.Popen(
        [str(PYTHON), str(SOURCES / name), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        begin, ended = process.stdin, process.stdout

        def make() -> None:
            begin.write("\n")
            if not ended.readline():
                raise RuntimeError(f"{name} ended")

        make()  # it has been started, and imported all it needs
        yield Workload(PYTHON, process.pid, make)
        begin.close()  # which ends it


def _run(command: list[str]) -> None:
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode == _CAN_NOT:
        raise Unavailable(done.stderr.strip())
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")

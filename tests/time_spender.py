"""A process whose time is spent as a test says, under a name of its own (tests/time_spent.c)."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

__all__ = ["Spender", "built"]


@contextmanager
def built() -> Iterator[Path]:
    """The program, compiled without optimizing, so that every function has a frame."""
    with tempfile.TemporaryDirectory(prefix="bpfleet-test-") as folder:
        Path(folder).chmod(0o755)  # whoever names its functions reads it as another user
        made = Path(folder) / f"spend{os.getpid()}"
        source = Path(__file__).with_name("time_spent.c")
        subprocess.run(["cc", "-O0", "-o", made, source], check=True)
        yield made


class Spender:
    """The process; it waits for words but while it spends time."""

    def __init__(self, program: Path, *, cpu: int | None = None) -> None:
        command = [str(program)] if cpu is None else ["taskset", "-c", str(cpu), str(program)]
        self.comm = program.name[:15]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self.spend("nap", 1)
        self.pid = self.process.pid

    def begin(self, how: str, ms: int) -> None:
        """Say how; `end` waits."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{how} {ms}\n")

    def end(self) -> tuple[int, int]:
        """(ns by the clock, ns on CPU) that it took; back when the process sleeps again."""
        assert self.process.stdout is not None
        word, wall, cpu = self.process.stdout.readline().split()
        assert word == "done"
        while self.state() != "S":
            pass
        return int(wall), int(cpu)

    def spend(self, how: str, ms: int) -> tuple[int, int]:
        """Both."""
        self.begin(how, ms)
        return self.end()

    def state(self) -> str:
        """The process's state, as /proc says."""
        return self.stat(0)

    def stat(self, field: int) -> str:
        """A field of /proc/PID/stat behind the name."""
        return Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[field]

    def run_delay(self) -> int:
        """ns that it was runnable and waited for a CPU, as the scheduler says."""
        return int(Path(f"/proc/{self.process.pid}/schedstat").read_text().split()[1])

    def __enter__(self) -> Spender:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.communicate("")

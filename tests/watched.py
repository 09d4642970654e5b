"""Independent tools beside the agent, their output as it comes; and what names the kernel gives."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from agent_process import PATIENCE

# In a mount namespace of its own: the tools look for tracepoints there, and a new machine has it not mounted.
_WITH_TRACEFS = (
    *("unshare", "--mount", "--propagation", "private", "sh", "-c"),
    'mount -t tracefs tracefs /sys/kernel/tracing && exec "$@"',
    "sh",
)

__all__ = ["Tool", "cgroup_v2", "comm_of", "new_cgroup"]


def comm_of(program: Path) -> str:
    """The name that the kernel keeps of a program."""
    return program.name[:15]


class Tool:
    """A tool that is running (of libbpf-tools, say), and all that it has printed."""

    def __init__(self, *command: str) -> None:
        # They write to a pipe in large blocks; a terminal makes them write lines.
        main, side = os.openpty()
        self._process = subprocess.Popen(
            [*_WITH_TRACEFS, *command],
            stdin=subprocess.DEVNULL,
            stdout=side,
            stderr=subprocess.STDOUT,
            close_fds=True,
        )
        os.close(side)
        self._main = main
        self._parts: list[bytes] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # EIO: it has ended
            while part := os.read(self._main, 1 << 16):
                self._parts.append(part)

    @property
    def text(self) -> str:
        """What it has printed so far."""
        return b"".join(self._parts).decode("utf-8", "replace").replace("\r\n", "\n")

    def wait_for(self, what: Callable[[str], Any], seconds: float = 20.0) -> None:
        """Wait until its output is as `what` wants."""
        end = time.monotonic() + seconds * PATIENCE
        while not what(self.text):
            assert time.monotonic() < end, f"{self._process.args} has printed {self.text[-2000:]!r}"
            assert self._process.poll() is None or what(self.text), self.text
            time.sleep(0.02)

    def wait_until_it_sees(self, event: Callable[[], Any], word: str, seconds: float = 20.0) -> None:
        """Make events until it prints `word`: it is attached then."""
        end = time.monotonic() + seconds * PATIENCE
        while word not in self.text:
            assert time.monotonic() < end, f"{self._process.args} has printed {self.text[-2000:]!r}"
            event()
            time.sleep(0.05)

    def end(self, seconds: float = 20.0) -> str:
        """Interrupt it, as Ctrl-C does; what it has printed."""
        if self._process.poll() is None:
            self._process.send_signal(2)
        try:
            self._process.wait(seconds * PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(5)
        return self.text

    def __enter__(self) -> Tool:
        return self

    def __exit__(self, *unused: object) -> None:
        self.end()
        os.close(self._main)


def cgroup_v2() -> Path | None:
    """Where the hierarchy of cgroup v2 is mounted."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    return next((Path(fields[1]) for fields in mounts if fields[2] == "cgroup2"), None)


@contextlib.contextmanager
def new_cgroup(parent: Path) -> Iterator[Path]:
    """A cgroup that is removed again, once its last process has gone."""
    made = parent / f"bpfleet-test-{os.getpid()}-{time.monotonic_ns()}"
    made.mkdir()
    try:
        yield made
    finally:
        end = time.monotonic() + 10
        while True:
            try:
                made.rmdir()
                break
            except OSError:
                assert time.monotonic() < end
                time.sleep(0.05)

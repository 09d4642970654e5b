"""What processes cost, from /proc: memory as PSS, CPU time, and how busy the machine is meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "Activity",
    "activity",
    "cpu_ns",
    "family",
    "in_tracing",
    "name_of",
    "programs_of",
    "pss",
    "running",
    "ticks_ns",
]


def family(pid: int) -> list[int]:
    """The process and all that descend from it, itself first."""
    found = [pid]
    with suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split():
                found += family(int(child))
    return found


def name_of(pid: int) -> str:
    """The module or program that it runs."""
    with suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        module = words[words.index(b"-m") + 1] if b"-m" in words else words[0]
        return module.decode()
    return "(gone)"


def pss(pid: int) -> int:
    """Proportional set size in bytes: its own memory, and its part of what it shares; 0 where it has gone."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def cpu_ns(pid: int) -> int:
    """CPU time of its threads, in ns as the scheduler counts it. Threads that have ended are not in it."""
    total = 0
    with suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            total += int(Path(f"/proc/{pid}/task/{task}/schedstat").read_text().split()[0])
    return total


def ticks_ns(pid: int) -> int:
    """utime + stime + cutime + cstime in ns: also of children that it has waited for; in steps of 10 ms."""
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) * (1_000_000_000 // os.sysconf("SC_CLK_TCK"))
    return 0


@dataclass(frozen=True, slots=True)
class Activity:
    """Counts of the machine since its start: processes made, context switches; and when they were read."""

    forks: int
    switches: int
    at: float

    def per_second(self, before: Activity) -> tuple[float, float]:
        """(processes made, context switches) per second since `before`."""
        seconds = self.at - before.at
        return (self.forks - before.forks) / seconds, (self.switches - before.switches) / seconds


def activity() -> Activity:
    """The counts now."""
    lines = Path("/proc/stat").read_text().splitlines()
    counts = {name: int(rest.split()[0]) for name, _, rest in (line.partition(" ") for line in lines)}
    return Activity(counts["processes"], counts["ctxt"], time.monotonic())


def programs_of(pid: int) -> set[int]:
    """Ids of the BPF programs that the process, or one that descends from it, has an fd or a link of."""
    found: set[int] = set()
    for one in family(pid):
        with suppress(OSError):
            for info in Path(f"/proc/{one}/fdinfo").iterdir():
                for line in info.read_text().splitlines():
                    if line.startswith("prog_id:"):
                        found.add(int(line.split()[1]))
    return found


def in_tracing(command: Sequence[str]) -> list[str]:
    """The command, run where tracefs is mounted, which most tools need; the mount is the process's own."""
    code = (
        "import os, sys; from bpfleet.loader.tracing_mounts import mount_privately; mount_privately(); "
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    return [sys.executable, "-c", code, *command]


@contextmanager
def running(
    command: Sequence[str], environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """A process whose output is kept from the terminal; it is told to end, and killed where it does not."""
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if process.stderr is not None:
            process.stderr.close()

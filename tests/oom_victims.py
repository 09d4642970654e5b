"""Processes killed for want of memory in a cgroup with a limit, and how many the kernel says it killed."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

__all__ = ["VMSTAT", "kill_for_memory", "oom_kills"]

VMSTAT = Path("/proc/vmstat")
"""Says how many were killed since boot, in whatever cgroup."""

_GREEDY = """
import sys
sys.stdin.readline()
kept = []
while True:
    kept.append(bytearray(b"x" * (1 << 20)))
"""


def kill_for_memory(python: Path, *cgroups: Path) -> int:
    """Run the interpreter in these cgroups, one of which has a limit of memory, until it is killed for want
    of more; returns its process id."""
    with subprocess.Popen([python, "-c", _GREEDY], stdin=subprocess.PIPE, text=True) as victim:
        for one in cgroups:
            (one / "cgroup.procs").write_text(str(victim.pid))
        victim.communicate("go\n")
    assert victim.returncode == -signal.SIGKILL
    return victim.pid


def oom_kills(file: Path) -> int:
    """What a file of lines `NAME NUMBER` says of `oom_kill`: `memory.events`, v1's `memory.oom_control`,
    /proc/vmstat."""
    (found,) = [line.split()[1] for line in file.read_text().splitlines() if line.startswith("oom_kill ")]
    return int(found)

"""Memory that was freed goes back to the kernel."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import os
from bpfleet.worker.memory import give_back

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

many = [bytes(2000) for _ in range(20_000)]  # too large for Python's own pools
last = bytes(2000)  # keeps the heap's end where it is
del many
freed = resident()
give_back()
print(freed - resident())
"""


def test_what_is_freed_below_something_that_is_kept_is_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 30_000_000

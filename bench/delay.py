"""delay: how long others on the same CPU wait while a large map is read, by each method.

A process on that CPU sleeps 1 ms again and again, while we read the map there without a pause."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator

from bench.maps import Shape, filled
from bench.peer import compiled
from bench.tables import Table

__all__ = ["run"]

_SHAPE = Shape("hash", 8, 16)


def run(quick: bool) -> Iterator[Table]:
    """One table over methods."""
    rows, seconds = (20_000, 0.5) if quick else (1_000_000, 4.0)
    table = Table(
        f"delay: what a process that sleeps 1 ms at a time waits while {_SHAPE.name}, {rows:,} rows, is read",
        ("read by", "reads", "sleeps", "late by, median", "late by, most"),
    )
    program = compiled("wakeups")
    allowed = os.sched_getaffinity(0)
    cpu = max(allowed)
    with filled(_SHAPE, rows) as made:
        for method in ("nothing", "walk", "batch", "ladder"):
            reader = None if method == "nothing" else made.reader(method)
            reads = 0
            os.sched_setaffinity(0, {cpu})
            try:
                with subprocess.Popen(
                    [program, str(cpu), str(seconds)], stdout=subprocess.PIPE, text=True
                ) as process:
                    while process.poll() is None:
                        if reader is None:
                            time.sleep(0.05)
                        else:
                            reader.read()
                            reads += 1
                    assert process.stdout is not None
                    sleeps, median, most = map(int, process.stdout.read().split())
            finally:
                os.sched_setaffinity(0, allowed)
            name = method if reader is None or method != "ladder" else f"ladder ({reader.read().method})"
            table.rows.append(
                [name, str(reads), str(sleeps), f"{median / 1e6:.2f} ms", f"{most / 1e6:.2f} ms"]
            )
            table.data.append(
                {"method": method, "reads": reads, "sleeps": sleeps, "median_ns": median, "most_ns": most}
            )
    table.notes = ["why the agent reads by batch where a walk takes longer than `walk_limit` (20 ms)"]
    yield table

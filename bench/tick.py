"""tick: a whole tick, from the map to frames in a sink's hands, beside reading the map alone."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

from bench.maps import FilledMap, Shape, filled
from bench.rounds import Contender, interleave
from bench.tables import Table
from bpfleet.reading.ladder import MapReader
from bpfleet.wire import Column, Frame, Origin, Schema, encode_schema
from bpfleet.wire.encode import FRAME_BYTES
from bpfleet.worker.collecting import RunningCollector
from bpfleet.worker.controls import Controls
from bpfleet.worker.ledger import Ledger
from bpfleet.worker.running_map import RunningMap
from bpfleet.worker.tick import tick

__all__ = ["NullSink", "compare", "run"]

_SHAPE = Shape("hash", 8, 16)
_ORIGIN = Origin("3f0e", "bench", "boot", 1)


class NullSink:
    """Takes frames and forgets them, counting; what a sink's queue does, without the sink."""

    def __init__(self) -> None:
        self.frames = self.bytes = 0

    def offer(self, frame: Frame) -> None:
        self.frames += 1
        self.bytes += len(frame.data)


def run(quick: bool) -> Iterator[Table]:
    """One table over sizes and methods."""
    table = Table(
        f"tick: {_SHAPE.name}, frames of at most {FRAME_BYTES >> 20} MiB to a sink that drops them",
        (
            "read by",
            "rows",
            "a read takes",
            "a tick takes",
            "slowest",
            "fastest",
            "tick ÷ read",
            "frames",
            "bytes",
        ),
    )
    for rows in (1_000, 5_000) if quick else (1_000, 10_000, 100_000, 1_000_000):
        for method in ("walk", "ladder"):
            compare(rows, method, table, rounds=5 if quick else 25)
    table.notes = [
        'reads and ticks take turns; "tick ÷ read" is of the medians',
        '"ladder" is as the agent reads: by batch where a walk would take longer than 20 ms',
    ]
    yield table


def compare(rows: int, method: str, table: Table, *, rounds: int) -> None:
    """Add the row of one size and method to `table`."""
    sink = NullSink()
    with filled(_SHAPE, rows) as made:
        reader = made.reader(method)
        collector, ledger = _collector(made, reader), Ledger(_page())

        def ticks(repeats: int) -> int:
            began = time.perf_counter_ns()
            for _ in range(repeats):
                tick(collector, _ORIGIN, ledger, [sink], FRAME_BYTES)
            return time.perf_counter_ns() - began

        def reads(repeats: int) -> int:
            began = time.perf_counter_ns()
            for _ in range(repeats):
                reader.read()
            return time.perf_counter_ns() - began

        pair = [Contender("tick", ticks, 5_000_000_000), Contender("read", reads, 5_000_000_000)]
        interleave(pair, rounds)
        sink.frames = sink.bytes = 0
        ticks(1)
        used = reader.read().method
    whole, alone = pair
    ratio = whole.median / alone.median
    table.rows.append(
        [
            f"{method} ({used})" if method == "ladder" else method,
            f"{rows:,}",
            *(f"{ns / 1e6:.3f} ms" for ns in (alone.median, whole.median, whole.worst, whole.best)),
            f"{ratio:.2f}",
            str(sink.frames),
            f"{sink.bytes:,}",
        ]
    )
    table.data.append(
        {
            "rows": rows,
            "method": method,
            "used": used,
            "read_ns": alone.median,
            "tick_ns": whole.median,
            "ratio": ratio,
            "frames": sink.frames,
            "bytes": sink.bytes,
            "rounds": len(whole.times),
        }
    )


def _collector(made: FilledMap, reader: MapReader) -> RunningCollector:
    """What the worker has of a collector with this one map."""
    key, value = made.shape.layouts()
    columns = [Column.of(leaf, "key") for leaf in key.columns()]
    columns += [Column.of(leaf, "value") for leaf in value.columns()]
    schema = Schema("bench", "1", "rows", "", tuple(columns))
    one = RunningMap("rows", reader, schema, encode_schema(schema))
    controls = Controls("bench", (), [], (), lambda changes: None)
    return RunningCollector("bench", "1", 1.0, [one], [], [], 1, None, [], [], [], controls)


def _page() -> int:
    fd = os.memfd_create("ledger")
    os.ftruncate(fd, 4096)
    return fd

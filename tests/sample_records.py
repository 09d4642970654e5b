"""Records for the tests of sinks and views: collector `execve`, map `counts`, and what an agent adds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from bpfleet import Frame, SinkContext
from bpfleet.wire import (
    Column,
    Decoder,
    Gap,
    Origin,
    Record,
    Schema,
    Snapshot,
    Status,
    encode_gap,
    encode_schema,
    encode_snapshot,
    encode_status,
)

AGENT = "0b0e5f7e-3c1c-4f0e-9f7b-0d8d6f1e2a3b"
ORIGIN = Origin(AGENT, "web1", "boot-1", 1_000_000_000)
WALL_OFFSET = time.time_ns() - 1000 * 10**9
"""So that the records are young."""

COUNTS = Schema(
    "execve",
    "1",
    "counts",
    "program starts",
    (
        Column("comm", "key", "char", 16, "label"),
        Column("count", "value", "u64", None, "counter"),
    ),
)
COUNTS_FRAME = encode_schema(COUNTS)


def snapshot(seq: int, counts: dict[str, int] | None = None, **changes: Any) -> Snapshot:
    """A snapshot of `execve.counts`; t1 is `seq` seconds after boot."""
    counts = {"sh": 2, "ls": 1} if counts is None else counts
    fields: dict[str, Any] = {
        "schema": COUNTS,
        "origin": ORIGIN,
        "generation": 500_000_000,
        "seq": seq,
        "t0": seq * 10**9 - 20_000,
        "t1": seq * 10**9,
        "wall_offset": WALL_OFFSET,
        "rows": len(counts),
        "columns": [np.array([*counts], "S16"), np.array([*counts.values()], "<u8")],
        "method": "walk",
        "complete": True,
        "entries": len(counts),
        "max_entries": 1024,
        "losses": {"failed_insert": 0},
    }
    return Snapshot(**(fields | changes))


def frame(seq: int, counts: dict[str, int] | None = None, **changes: Any) -> Frame:
    """One snapshot as a frame that carries its schema."""
    (made,) = encode_snapshot(snapshot(seq, counts, **changes), COUNTS_FRAME)
    return made


@cache
def _noise(rows: int) -> dict[str, Any]:
    numbers = np.random.default_rng(rows).integers(0, 1 << 63, rows, dtype=np.uint64)
    return {"rows": rows, "columns": [numbers.astype("S16"), numbers], "entries": rows, "max_entries": rows}


def large_frame(seq: int, kilobytes: int = 64, **changes: Any) -> Frame:
    """A snapshot of about that size whose bytes don't compress well."""
    return frame(seq, {}, **_noise(kilobytes * 1024 // 24), **changes)


def gap(seq: int, first: int, last: int) -> Gap:
    """A gap told before record `seq`."""
    return Gap(
        origin=ORIGIN,
        seq=seq,
        first=first,
        last=last,
        count=last - first + 1,
        reason="queue_full",
        sink="test",
        t1=seq * 10**9,
    )


def status(seq: int, *, state: str = "running", error: dict[str, str] | None = None) -> Status:
    """A status with one collector and one sink."""
    body = {
        "software": {"version": "0.1.0"},
        "collectors": [{"name": "execve", "state": state, "error": error}],
        "sinks": [{"name": "test", "state": "running", "error": None}],
        "labels": {"rack": "7"},
    }
    return Status(origin=ORIGIN, seq=seq, t1=seq * 10**9, wall_offset=WALL_OFFSET, body=body)


def one_of_each() -> list[Frame]:
    """A schema, a snapshot, a gap and a status."""
    return [COUNTS_FRAME, frame(1), encode_gap(gap(2, 5, 7)), encode_status(status(3))]


def with_schemas(frames: Sequence[Frame]) -> list[Frame]:
    """As the delivery layer offers frames to a sink that was just opened."""
    return [COUNTS_FRAME, *frames]


def decoded(frames: Iterable[bytes | memoryview]) -> list[Record]:
    """The records of one stream."""
    decoder = Decoder()
    return [decoder.decode(one) for one in frames]


def context(state: Path, **changes: Any) -> SinkContext:
    """A sink's surroundings."""
    fields: dict[str, Any] = {
        "name": "test",
        "state": state,
        "agent": AGENT,
        "host": "web1",
        "user": "root",
    }
    return SinkContext(**(fields | changes))


class Lost:
    """Remembers what a sink said it gave up."""

    def __init__(self) -> None:
        self.told: list[tuple[list[int], str]] = []

    @property
    def note(self) -> Callable[[Sequence[Frame], str], None]:
        return lambda frames, reason: self.told.append(([one.seq for one in frames], reason))

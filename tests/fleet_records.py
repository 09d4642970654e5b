"""Records of a small fleet for the tests of stores, and what rates they have by the rule of docs/wire.md."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from bpfleet.stores import Received
from bpfleet.wire import Column, Gap, Origin, Schema, Snapshot, Status

NOW = int(os.environ.get("BPFLEET_TESTS_NOW") or time.time_ns())
"""CLOCK_REALTIME of all records; a process that is to make the same ones is told."""

CALLS = Schema(
    "sys.calls",
    "1",
    "by_comm",
    "",
    (
        Column("comm", "key", "char", 16, "label"),
        Column("cpu", "key", "u32", None, "label"),
        Column("calls", "value", "u64", None, "counter"),
        Column("errors", "value", "u32", None, "counter"),
        Column("slots", "value", "u64", 6, "histogram", "ns"),
        Column("last", "value", "s64", None, "gauge"),
    ),
)
"""Keys, counters of two sizes, a histogram, a gauge."""
GLOBALS = Schema(
    "sys.calls",
    "1",
    ".bss",
    "",
    (Column("ticks", "value", "u64", None, "counter"), Column("busy", "value", "f64", None, "counter")),
)
"""No keys: rows match by their index."""
EVENTS = Schema(
    "sys.calls",
    "1",
    "opened",
    "",
    (
        Column("event_number", "key", "u64", None, "event"),
        Column("pid", "value", "u32", None, "label"),
        Column("path", "value", "char", 8, "label"),
    ),
)
"""Rows that are events: each is told once."""
KINDS = Schema(
    "kinds",
    "1",
    "all",
    "",
    tuple(
        Column(f"f.{kind}{'' if count is None else count}", "value", kind, count, "gauge")
        for kind in (
            "u8",
            "u16",
            "u32",
            "u64",
            "s8",
            "s16",
            "s32",
            "s64",
            "f32",
            "f64",
            "bool",
            "char",
            "bytes",
        )
        for count in (None, 3)
    ),
)
"""Every type, alone and as an array."""


def origin(agent: str = "a1", boot: str = "b1", run: int = 5 * 10**9) -> Origin:
    return Origin(agent, f"host-{agent}", boot, run)


def snapshot(
    schema: Schema, rows: Sequence[Sequence[Any]], *, seq: int, seconds: float, **changes: Any
) -> Snapshot:
    """A snapshot of `schema` that ended so many seconds after boot, which was 1000 s ago."""
    t1 = int(seconds * 1e9)
    columns = [
        np.array([row[i] for row in rows], column.dtype.base).reshape(len(rows), *column.dtype.shape)
        for i, column in enumerate(schema.columns)
    ]
    fields: dict[str, Any] = {
        "schema": schema,
        "origin": origin(),
        "generation": 10 * 10**9,
        "seq": seq,
        "t0": t1 - 1000,
        "t1": t1,
        "wall_offset": NOW - 1000 * 10**9,
        "rows": len(rows),
        "columns": columns,
        "method": "walk",
        "complete": True,
        "entries": len(rows),
        "max_entries": 1024,
        "losses": {"failed_insert": 3},
    }
    return Snapshot(**(fields | changes))


def received(records: Iterable[Any], spool: str = "s1", first: int = 1, at: int = NOW) -> list[Received]:
    """As they come from their agent, one after another."""
    return [
        Received(record.origin.agent, spool, seq, record, 100, at + seq * 1000)
        for seq, record in enumerate(records, first)
    ]


def gap(first: int, last: int, **changes: Any) -> Gap:
    fields: dict[str, Any] = {
        "origin": origin(),
        "seq": last + 1,
        "first": first,
        "last": last,
        "count": last - first + 1,
        "reason": "queue_full",
        "sink": "zmq",
        "t1": 10**12,
    }
    return Gap(**(fields | changes))


def status(seq: int, seconds: float, who: Origin | None = None, **body: Any) -> Status:
    plain = {
        "software": {"version": "0.1.0", "kernel": "6.1"},
        "collectors": [
            {"name": "good", "state": "running", "version": "1", "generation": 7, "interval_s": 10.0},
            {"name": "bad", "state": "load_error", "error": {"what": "no such map", "remedy": "load it"}},
        ],
        "sinks": [],
        "labels": {"rack": "é'\\"},
    }
    return Status(
        origin=who or origin(),
        seq=seq,
        t1=int(seconds * 1e9),
        wall_offset=NOW - 1000 * 10**9,
        body=plain | body,
    )


def wild_history(seed: int, reads: int = 40) -> list[Snapshot]:
    """Reads of one map in which all happens that the rate rule speaks of."""
    dice = random.Random(seed)
    made: list[Snapshot] = []
    seq, seconds, generation, boot, run = 1, 20.0, 10.0, "b1", 5
    counts: dict[tuple[bytes, int], list[int]] = {}
    for _ in range(reads):
        seconds += dice.choice([1, 1, 1, 2.5, 10])
        what = dice.random()
        if what < 0.08:
            generation, counts = seconds - 0.5, {}
        elif what < 0.12:
            boot, seconds, generation, counts, run, seq = f"b{dice.random()}", 30.0, 12.0, {}, run + 1, 1
        if dice.random() < 0.15 and counts:
            counts.pop(dice.choice(sorted(counts)))  # evicted
        if dice.random() < 0.15 and counts:
            counts[dice.choice(sorted(counts))] = [0] * 8  # evicted, and made again
        for _ in range(dice.randrange(4)):
            counts.setdefault(
                (dice.choice([b"sh", b"ls", b"a\0x", b"a\0y", b"\xff"]), dice.randrange(3)), [0] * 8
            )
        for values in counts.values():
            for i in range(8):
                values[i] += dice.choice([0, 0, 1, 5, 2**40 if i == 0 else 7])
        shown = {key: value for key, value in counts.items() if dice.random() > 0.1}
        rows = [(*key, v[0], v[1], v[2:8], -v[0]) for key, v in shown.items()]
        dice.shuffle(rows)
        parts = dice.choice([1, 1, 3]) if len(rows) >= 3 else 1
        size = -(-len(rows) // parts)
        parts = -(-len(rows) // size) if rows else 1
        for part in range(parts):
            one = snapshot(
                CALLS,
                rows[part * size : (part + 1) * size] if rows else [],
                seq=seq + part,
                seconds=seconds,
                origin=origin(boot=boot, run=run * 10**9),
                generation=int(generation * 1e9),
                complete=dice.random() > 0.2 if parts == 1 else True,
                entries=len(rows),
                part=part,
                parts=parts,
            )
            if not (parts > 1 and dice.random() < 0.1):  # else this part is lost
                made.append(one)
        seq += parts
    return made


def expected_rates(history: Sequence[Snapshot]) -> list[dict[str, Any]]:
    """The rates of a history of CALLS, worked out read by read."""
    reads: dict[tuple[Any, ...], list[Snapshot]] = {}
    for one in history:
        origin = one.origin
        stream = origin.agent, one.schema.id, origin.boot, one.generation
        reads.setdefault((stream, one.t1, origin.run, one.seq - one.part), []).append(one)
    made = []
    before: dict[Any, tuple[int, bool, dict[Any, Any]]] = {}
    for key in sorted(reads, key=lambda key: key[1:]):
        stream, t1, parts = key[0], key[1], reads[key]
        now = {
            (*(column[i].tobytes() for column in part.columns[:2]),): (part, i)
            for part in parts
            for i in range(part.rows)
        }
        whole = all(one.complete for one in parts) and len(parts) == parts[0].parts
        earlier = before.get(stream)
        for name, (part, i) in now.items():
            calls, errors, slots = (part.columns[c][i] for c in (2, 3, 4))
            new = [int(calls), int(errors), *map(int, slots)]
            old = earlier[2].get(name) if earlier else None
            since, grown = _judged(new, old, earlier)
            row = part.to_rows(i, i + 1)[0]
            seconds = (t1 - (earlier[0] if earlier else part.generation)) / 1e9
            made.append(
                {
                    "time": (part.t1 + part.wall_offset) // 1000,
                    "t1": t1,
                    "seconds": seconds,
                    "since": since,
                    "comm": row["comm"],
                    "cpu": row["cpu"],
                    "calls": grown[0] if grown else None,
                    "calls_per_s": grown[0] / seconds if grown else None,
                    "errors": grown[1] if grown else None,
                    "errors_per_s": grown[1] / seconds if grown else None,
                    "slots": grown[2:] if grown else None,
                }
            )
        values = {
            name: [int(p.columns[2][i]), int(p.columns[3][i]), *map(int, p.columns[4][i])]
            for name, (p, i) in now.items()
        }
        before[stream] = t1, whole, values
    return made


def _judged(
    new: list[int], old: list[int] | None, earlier: tuple[int, bool, Any] | None
) -> tuple[str, list[int] | None]:
    if earlier is None:
        return "load", new
    if old is None:
        return ("new", new) if earlier[1] else ("unknown", None)
    if any(n < o for n, o in zip(new, old, strict=True)):
        return "reset", new
    return "snapshot", [n - o for n, o in zip(new, old, strict=True)]

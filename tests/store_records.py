"""Records as a store gets them, for the tests of stores and questions: agents with a fleet's usual maps."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bpfleet.stores import Received, StoreContext
from bpfleet.wire import Column, Gap, Origin, Schema, Snapshot, Status

SECOND = 10**9
EPOCH = 1_790_000_000 * SECOND
"""CLOCK_REALTIME at boot of every agent: 2026-09-21 14:13:20 UTC."""


def key(name: str, kind: str = "u32", count: int | None = None, unit: str = "") -> Column:
    return Column(name, "key", kind, count, "label", unit)


def value(name: str, kind: str = "u64", count: int | None = None, meaning: str = "counter") -> Column:
    return Column(name, "value", kind, count, meaning)


COUNTS = Schema("execve", "1", "counts", "", (key("comm", "char", 16), value("count")))
LATENCY = Schema(
    "dnslat", "1", "latency", "", (key("server", "char", 16), value("hist", "u64", 32, "histogram"))
)
GLOBALS = Schema("execve", "1", ".bss", "", (value("forks"), value("level", "s32", None, "gauge")))


def array(column: Column, values: Sequence[Any]) -> np.ndarray:
    """A column of values, as a decoder gives it."""
    if column.type == "char":
        values = [one.encode() if isinstance(one, str) else one for one in values]
    elif column.type == "bytes":
        values = [np.void(one) for one in values]
    made = np.empty(len(values), column.dtype)
    for index, one in enumerate(values):
        made[index] = one
    return made


@dataclass
class Agent:
    """One agent whose records are delivered: its seq and its spool's count up by themselves."""

    name: str = "agent-1"
    host: str = "web-1"
    boot: str = "boot-1"
    run: int = 1 * SECOND
    generation: int = 2 * SECOND
    spool: str = "spool-1"
    delay: int = 5_000_000
    """ns from a read to its reception."""
    seq: int = 0
    spool_seq: int = 0
    epoch: int = EPOCH
    received: list[Received] = field(default_factory=list)

    def snapshot(self, schema: Schema, rows: Sequence[Sequence[Any]], at: float, **changes: Any) -> Received:
        """A read `at` seconds after boot; `rows` are tuples in the order of the schema's columns."""
        self.seq += 1
        lists = list(zip(*rows, strict=True)) or [()] * len(schema.columns)
        fields: dict[str, Any] = {
            "schema": schema,
            "origin": Origin(self.name, self.host, self.boot, self.run),
            "generation": self.generation,
            "seq": self.seq,
            "t0": int(at * SECOND),
            "t1": int(at * SECOND),
            "wall_offset": self.epoch,
            "rows": len(rows),
            "columns": [array(c, v) for c, v in zip(schema.columns, lists, strict=True)],
            "method": "walk",
            "complete": True,
            "entries": len(rows),
            "max_entries": 1024,
            "losses": {"failed_insert": 0},
        }
        return self._deliver(Snapshot(**(fields | changes)), at)

    def gap(self, first: int, last: int, at: float, reason: str = "queue_full") -> Received:
        record = Gap(
            origin=Origin(self.name, self.host, self.boot, self.run),
            seq=self.seq + 1,
            first=first,
            last=last,
            count=last - first + 1,
            reason=reason,
            sink="zmq",
            t1=int(at * SECOND),
        )
        return self._deliver(record, at)

    def status(
        self,
        at: float,
        collectors: Sequence[Mapping[str, Any]] = ({"name": "execve", "state": "running"},),
        labels: Mapping[str, str] | None = None,
    ) -> Received:
        self.seq += 1
        body = {
            "software": {"version": "0.1.0", "kernel": "6.1.0"},
            "collectors": list(collectors),
            "sinks": [{"name": "zmq", "state": "running"}],
            "labels": dict(labels or {}),
        }
        record = Status(
            origin=Origin(self.name, self.host, self.boot, self.run),
            seq=self.seq,
            t1=int(at * SECOND),
            wall_offset=self.epoch,
            body=body,
        )
        return self._deliver(record, at)

    def _deliver(self, record: Snapshot | Gap | Status, at: float) -> Received:
        self.spool_seq += 1
        moment = self.epoch + int(at * SECOND) + self.delay
        made = Received(self.name, self.spool, self.spool_seq, record, 100, moment)
        self.received.append(made)
        return made


def context(state: Path, notes: list[str] | None = None) -> StoreContext:
    """A store's surroundings; what it tells the operator goes to `notes`."""
    return StoreContext("duckdb", state, (lambda message: None) if notes is None else notes.append)


def young() -> int:
    """An `epoch` for an agent that was booted 1000 s ago."""
    return time.time_ns() - 1000 * SECOND

"""A batch of records as Arrow tables, one for each table that they go to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa

from bpfleet.stores import Received
from bpfleet.wire import Gap, Snapshot, Status
from bpfleet_aggregator.stores.arrow_columns import arrow_column, column_bytes, key_rest
from bpfleet_aggregator.stores.duckdb.streams import Link
from bpfleet_aggregator.stores.duckdb.tables import ARROW, GAPS, REST, SNAPSHOTS, STATUSES, data_table
from bpfleet_aggregator.stores.losses import losses_text
from bpfleet_aggregator.stores.placing import micros
from bpfleet_aggregator.stores.relations import Placement

__all__ = ["Batch", "Placed"]


class Placed(NamedTuple):
    """A snapshot with its numbers."""

    received: Received
    record: Snapshot
    number: int
    """Of the snapshot in the store."""
    first: int
    """`_n` of its first row."""
    start: int
    """The row of the whole snapshot that this part begins with."""
    link: Link
    relation: str


@dataclass(slots=True)
class Batch:
    """Records by where they go."""

    snapshots: list[Placed] = field(default_factory=list)
    by_schema: dict[str, tuple[Placement, list[Placed]]] = field(default_factory=dict)
    gaps: list[Received] = field(default_factory=list)
    statuses: list[Received] = field(default_factory=list)

    def add(self, placed: Placed, placement: Placement) -> None:
        """Take in a snapshot."""
        self.snapshots.append(placed)
        rows = self.by_schema.setdefault(placement.schema.id, (placement, []))[1]
        if placed.record.rows:
            rows.append(placed)

    def tables(self) -> Iterator[tuple[str, pa.Table]]:
        """The names of tables, and what is to be added to each."""
        for placement, placed in self.by_schema.values():
            if placed:
                yield data_table(placement.schema.id), _data(placement, placed)
        if self.snapshots:
            yield "snapshots", _table(SNAPSHOTS, zip(*map(_snapshot, self.snapshots), strict=True))
        for name, columns, made, rows in (
            ("gaps", GAPS, _GAP, self.gaps),
            ("statuses", STATUSES, _STATUS, self.statuses),
        ):
            if rows:
                yield name, _table(columns, ([made[column](one) for one in rows] for column in columns))


def _data(placement: Placement, placed: Sequence[Placed]) -> pa.Table:
    counts = [one.record.rows for one in placed]
    starts = np.array([one.first for one in placed], np.int64)
    ends = np.cumsum(counts)
    total = int(ends[-1])
    columns = placement.schema.columns
    raws = [column_bytes([one.record.columns[index] for one in placed]) for index in range(len(columns))]
    rest = key_rest(columns, raws)
    made = {
        "_snapshot": pa.array(np.repeat(np.array([one.number for one in placed], np.uint64), counts)),
        # Consecutive, unless rows of other schemas lie between.
        "_n": pa.array(np.arange(total) + np.repeat(starts - (ends - counts), counts)),
        REST: pa.nulls(total, pa.uint64()) if rest is None else pa.array(rest, mask=rest == 0),
    }
    for part, column, raw in zip(placement.fields, columns, raws, strict=True):
        made[part.name] = arrow_column(column, raw)
    return pa.table(made)


def _table(columns: dict[str, str], values: Iterable[Sequence[Any]]) -> pa.Table:
    """`values` has those of each of `columns`."""
    return pa.table(
        {
            name: pa.array(of_column, ARROW[kind])
            for (name, kind), of_column in zip(columns.items(), values, strict=True)
        }
    )


def _snapshot(one: Placed) -> tuple[Any, ...]:
    """The row of a snapshot in the order of SNAPSHOTS: in one go, as there are thousands a second."""
    received, record, number, first, start, link, relation = one
    origin, schema, losses = record.origin, record.schema, record.losses
    return (
        number,
        *link,
        first - start,
        micros(record.t1 + record.wall_offset),
        received.agent,
        origin.host,
        origin.boot,
        origin.run,
        record.generation,
        record.seq,
        record.t0,
        record.t1,
        schema.collector,
        schema.map,
        relation,
        schema.id,
        record.part,
        record.parts,
        record.rows,
        record.entries,
        record.max_entries,
        record.complete,
        record.method,
        losses.get("failed_insert"),
        losses.get("truncated"),
        received.spool,
        received.seq,
        micros(received.at),
        losses_text(losses),
    )


_ORIGIN: dict[str, Callable[[Received], Any]] = {
    "agent": lambda one: one.agent,
    "host": lambda one: _told(one).origin.host,
    "boot": lambda one: _told(one).origin.boot,
    "run": lambda one: _told(one).origin.run,
    "seq": lambda one: _told(one).seq,
    "t1": lambda one: _told(one).t1,
    "spool": lambda one: one.spool,
    "spool_seq": lambda one: one.seq,
}


def _of_gap(name: str) -> Callable[[Received], Any]:
    return lambda one: getattr(one.record, name)


_GAP: dict[str, Callable[[Received], Any]] = {
    **_ORIGIN,
    "time": lambda one: micros(one.at),
    **{name: _of_gap(name) for name in ("first", "last", "count", "reason", "sink")},
}
_STATUS: dict[str, Callable[[Received], Any]] = {
    **_ORIGIN,
    "time": lambda one: micros(_told(one).t1 + one.record.wall_offset),  # type: ignore[union-attr]
    "body": lambda one: msgspec.json.encode(one.record.body).decode(),  # type: ignore[union-attr]
    "received": lambda one: micros(one.at),
}


def _told(one: Received) -> Gap | Status:
    assert not isinstance(one.record, Snapshot)
    return one.record

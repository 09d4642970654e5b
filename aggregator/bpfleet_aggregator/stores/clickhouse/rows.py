"""A batch of records as the columns of a few INSERTs: one for each table, with no loop over rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from bpfleet.stores import Received
from bpfleet.wire import Gap, Snapshot, Status
from bpfleet_aggregator.stores.arrow_columns import arrow_column, column_bytes, key_rest
from bpfleet_aggregator.stores.clickhouse.dialect import Dialect
from bpfleet_aggregator.stores.clickhouse.native import InsertColumn
from bpfleet_aggregator.stores.clickhouse.tables import Columns
from bpfleet_aggregator.stores.losses import losses_text
from bpfleet_aggregator.stores.relations import Placement

__all__ = ["collectors", "first_row", "gaps", "rows", "snapshots", "statuses"]

_LATEST = (1 << 32) - 1
"""Seconds since 1970 that every dialect's partitions can hold (2106)."""

Members = Mapping[str, Callable[[Received], Any]]


def moment(nanoseconds: int) -> int:
    """Microseconds since 1970. A clock that is absurdly wrong is moved into the range that has days."""
    return max(0, min(nanoseconds // 1000, _LATEST * 1_000_000))


def first_row(snapshot: Snapshot) -> int:
    """The index that the first row of this part has in the whole snapshot; told by the part alone.

    All parts but the last have the same number of rows, and all together have `entries` less `truncated`.
    """
    if snapshot.part == 0:
        return 0
    if snapshot.part < snapshot.parts - 1:
        return snapshot.part * snapshot.rows
    return max(0, snapshot.entries - snapshot.losses.get("truncated", 0) - snapshot.rows)


def _origin(name: str) -> Callable[[Received], Any]:
    return lambda one: getattr(one.record.origin, name)


def _of(name: str) -> Callable[[Received], Any]:
    return lambda one: getattr(one.record, name)


_HOUR_US = 3600 * 10**6


def _recorded_at(one: Received) -> int:
    record: Any = one.record
    return moment(record.t1 + record.wall_offset)


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


_COMMON: Members = {
    "agent": lambda one: one.agent,
    "host": _origin("host"),
    "boot": _origin("boot"),
    "run": _origin("run"),
    "t1": _of("t1"),
    "seq": _of("seq"),
    "Spool": lambda one: one.spool,
    "SpoolSeq": lambda one: one.seq,
    "Received": lambda one: moment(one.at),
}
_ROW: Members = {
    **_COMMON,
    "time": _recorded_at,
    "generation": _of("generation"),
    "Read": lambda one: one.record.seq - one.record.part,  # type: ignore[union-attr]
    "Schema": lambda one: one.record.schema.id,  # type: ignore[union-attr]
}
_SNAPSHOT: Members = {
    **_COMMON,
    "time": _recorded_at,
    "Read": lambda one: one.record.seq - one.record.part,  # type: ignore[union-attr]
    "Schema": lambda one: one.record.schema.id,  # type: ignore[union-attr]
    "collector": lambda one: one.record.schema.collector,  # type: ignore[union-attr]
    "map": lambda one: one.record.schema.map,  # type: ignore[union-attr]
    **{
        name: _of(name)
        for name in ("generation", "t0", "part", "parts", "rows", "entries", "max_entries", "method")
    },
    "complete": lambda one: int(one.record.complete),  # type: ignore[union-attr]
    "failed_insert": lambda one: one.record.losses.get("failed_insert"),  # type: ignore[union-attr]
    "truncated": lambda one: one.record.losses.get("truncated"),  # type: ignore[union-attr]
    "losses": lambda one: losses_text(one.record.losses),  # type: ignore[union-attr]
    "Size": lambda one: one.size,
}
_GAP: Members = {
    **_COMMON,
    "time": lambda one: moment(one.at),
    **{name: _of(name) for name in ("first", "last", "count", "reason", "sink")},
}
_STATUS: Members = {
    **_COMMON,
    "time": _recorded_at,
    "version": lambda one: _software(one, "version"),
    "kernel": lambda one: _software(one, "kernel"),
    "labels": lambda one: _json(one.record.body.get("labels") or {}),  # type: ignore[union-attr]
    "body": lambda one: _json(one.record.body),  # type: ignore[union-attr]
}


def _software(one: Received, name: str) -> str | None:
    record = one.record
    assert isinstance(record, Status)
    found = (record.body.get("software") or {}).get(name)
    return None if found is None else str(found)


def _array(values: Sequence[Any], kind: str) -> pa.Array:
    plain = kind[len("Nullable(") : -1] if kind.startswith("Nullable(") else kind
    return pa.array(values, _ARROW.get(plain, pa.string()))


_ARROW = {
    "UInt8": pa.uint8(),
    "Bool": pa.uint8(),
    "UInt32": pa.uint32(),
    "UInt64": pa.uint64(),
    "Float64": pa.float64(),
    "DateTime64(6, 'UTC')": pa.int64(),
    "Decimal(18, 6)": pa.int64(),
}


def _made(found: Mapping[str, Sequence[Any]], types: Columns, dialect: Dialect) -> list[InsertColumn]:
    return [
        InsertColumn(name, dialect.sent(types[name]), _array(values, types[name]))
        for name, values in found.items()
    ]


def _each(batch: Sequence[Received], members: Members) -> dict[str, list[Any]]:
    return {name: [get(one) for one in batch] for name, get in members.items()}


def place_in_table(one: Received) -> tuple[int, str, str, int]:
    """The key of its kind's table, as far as its rows share it: hour (not of gaps), agent, spool, seq."""
    hour = 0 if isinstance(one.record, Gap) else _recorded_at(one) // _HOUR_US
    return hour, one.agent, one.spool, one.seq


def rows(
    batch: Sequence[Received], placement: Placement, types: Columns, dialect: Dialect
) -> list[InsertColumn]:
    """The rows of snapshots of one schema; the work for each record is in its few fixed columns."""
    shots = [one.record for one in batch if isinstance(one.record, Snapshot)]
    counts = np.array([shot.rows for shot in shots])
    total = int(counts.sum())
    which = pa.array(np.repeat(np.arange(len(shots)), counts))
    made = [
        InsertColumn(column.name, column.type, column.values.take(which))
        for column in _made(_each(batch, _ROW), types, dialect)
    ]
    before = np.cumsum(counts) - counts
    starts = np.array([first_row(shot) for shot in shots]) - before
    numbers = (np.arange(total) + np.repeat(starts, counts)).astype(np.uint32)
    made.append(InsertColumn("row", "UInt32", pa.array(numbers)))
    columns = placement.schema.columns
    raws = [column_bytes([shot.columns[index] for shot in shots]) for index in range(len(columns))]
    rest = key_rest(columns, raws)
    if rest is not None:
        made.append(InsertColumn("Rest", "UInt64", pa.array(rest)))
    for field, column, raw in zip(placement.fields, columns, raws, strict=True):
        made.append(InsertColumn(field.name, dialect.sent(types[field.name]), arrow_column(column, raw)))
    return made


def snapshots(
    batch: Sequence[Received], relation_of: Mapping[str, str], types: Columns, dialect: Dialect
) -> list[InsertColumn]:
    """One row for each snapshot frame; `relation_of` goes by the schema's id."""
    found = _each(batch, _SNAPSHOT)
    found["relation"] = [relation_of[schema] for schema in found["Schema"]]
    return _made(found, types, dialect)


def gaps(batch: Sequence[Received], types: Columns, dialect: Dialect) -> list[InsertColumn]:
    """One row for each gap."""
    assert all(isinstance(one.record, Gap) for one in batch)
    return _made(_each(batch, _GAP), types, dialect)


def statuses(batch: Sequence[Received], types: Columns, dialect: Dialect) -> list[InsertColumn]:
    """One row for each status."""
    return _made(_each(batch, _STATUS), types, dialect)


def collectors(batch: Sequence[Received], types: Columns, dialect: Dialect) -> list[InsertColumn]:
    """One row for each collector that a status tells of."""
    told = [(one, *pair) for one in batch for pair in enumerate(_collectors_of(one))]
    found: dict[str, list[Any]] = {
        name: [get(one) for one, _, _ in told] for name, get in {**_COMMON, "time": _recorded_at}.items()
    }
    found["row"] = [number for _, number, _ in told]
    found["collector"] = [body["name"] for _, _, body in told]
    found["version"] = [body.get("version") or "" for _, _, body in told]
    found["state"] = [body["state"] for _, _, body in told]
    for member, of_error in (("error", "what"), ("remedy", "remedy")):
        found[member] = [(body.get("error") or {}).get(of_error) or "" for _, _, body in told]
    found["generation"] = [body.get("generation") for _, _, body in told]
    found["interval_s"] = [body.get("interval_s") for _, _, body in told]
    return _made(found, types, dialect)


def _collectors_of(one: Received) -> Sequence[Mapping[str, Any]]:
    record = one.record
    assert isinstance(record, Status)
    return record.body.get("collectors") or ()

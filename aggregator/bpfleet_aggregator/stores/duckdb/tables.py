"""The tables of a partition file.

`snapshots`, `gaps` and `statuses` have one row per record. The rows of maps are in one table per schema,
`d_<schema id>`: `_snapshot` is the number of the snapshot, `_n` counts up through the partition, and the
map's fields follow. What a snapshot says is said once and not per row. `marks` and `streams` are what was
known when the partition was begun; with its records they are what is known now.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from bpfleet.wire import Column
from bpfleet_aggregator.stores.duckdb.engine import quoted
from bpfleet_aggregator.stores.relations import Placement

__all__ = [
    "ARROW",
    "GAPS",
    "REST",
    "SNAPSHOTS",
    "STATUSES",
    "SUMMARIES",
    "TABLES",
    "arrow_table",
    "data_ddl",
    "data_table",
    "ddl",
]

_U64, _U32, _TEXT, _TIME = "UBIGINT", "UINTEGER", "VARCHAR", "TIMESTAMP WITH TIME ZONE"

SNAPSHOTS = {
    "snapshot": _U64,  # numbers of one store only grow
    "read": _U64,  # the snapshot that was the first part of this read to come
    "before": _U64,  # the read before it, as `stores.__init__` says; NULL if there is none
    "before_t1": _U64,
    "before_whole": "BOOLEAN",
    "late": "BOOLEAN",  # came after a later read: its rates are not known
    "base": "BIGINT",  # row = _n - base
    "time": _TIME,
    "agent": _TEXT,
    "host": _TEXT,
    "boot": _TEXT,
    "run": _U64,
    "generation": _U64,
    "seq": _U64,
    "t0": _U64,
    "t1": _U64,
    "collector": _TEXT,
    "map": _TEXT,
    "relation": _TEXT,
    "schema": _TEXT,
    "part": _U32,
    "parts": _U32,
    "rows": _U32,
    "entries": _U64,
    "max_entries": _U64,
    "complete": "BOOLEAN",
    "method": _TEXT,
    "failed_insert": _U64,
    "truncated": _U64,
    "spool": _TEXT,
    "spool_seq": _U64,
    "received": _TIME,
    "losses": _TEXT,  # of all kinds (`stores.losses`); since format 2
}
GAPS = {
    "time": _TIME,  # when it was received
    "agent": _TEXT,
    "host": _TEXT,
    "boot": _TEXT,
    "run": _U64,
    "seq": _U64,
    "first": _U64,
    "last": _U64,
    "count": _U64,
    "reason": _TEXT,
    "sink": _TEXT,
    "t1": _U64,
    "spool": _TEXT,
    "spool_seq": _U64,
}
STATUSES = {
    "time": _TIME,
    "agent": _TEXT,
    "host": _TEXT,
    "boot": _TEXT,
    "run": _U64,
    "seq": _U64,
    "t1": _U64,
    "body": _TEXT,
    "spool": _TEXT,
    "spool_seq": _U64,
    "received": _TIME,
}
TABLES = {
    "snapshots": SNAPSHOTS,
    "gaps": GAPS,
    "statuses": STATUSES,
    "schemas": dict.fromkeys(("schema", "relation", "collector", "version", "map", "help", "columns"), _TEXT),
    "marks": {"agent": _TEXT, "spool": _TEXT, "seq": _U64},
    "streams": {
        "agent": _TEXT,
        "schema": _TEXT,
        "boot": _TEXT,
        "generation": _U64,
        "run": _U64,
        "first": _U64,
        "read": _U64,
        "t1": _U64,
        "next_part": "BIGINT",
        "parts": _U32,
        "complete": "BOOLEAN",
        "before": _U64,
        "before_t1": _U64,
        "before_whole": "BOOLEAN",
        "at": "BIGINT",
    },
    # Written last: a file without it was never finished.
    "partition": {"format": "INTEGER", "number": "INTEGER", "began": "BIGINT"},
}
ARROW = {
    "UBIGINT": pa.uint64(),
    "UINTEGER": pa.uint32(),
    "BIGINT": pa.int64(),
    "BOOLEAN": pa.bool_(),
    "VARCHAR": pa.string(),
    "TIMESTAMP WITH TIME ZONE": pa.timestamp("us", "UTC"),
}
"""The Arrow type of each of these."""
SUMMARIES = "agents_1", "collectors_1", "losses_1"
"""Of a partition that takes no more: `summary.py`. Another definition needs another number."""
REST = "_rest"
"""Of keys that are text: `key_rest`."""

_TYPES = {
    "u8": "UTINYINT",
    "u16": "USMALLINT",
    "u32": "UINTEGER",
    "u64": "UBIGINT",
    "s8": "TINYINT",
    "s16": "SMALLINT",
    "s32": "INTEGER",
    "s64": "BIGINT",
    "f32": "FLOAT",
    "f64": "DOUBLE",
    "bool": "BOOLEAN",
    "char": _TEXT,
    "bytes": _TEXT,
}


def ddl(alias: str) -> list[str]:
    """Statements that make the tables of a partition."""
    return [f"CREATE TABLE {alias}.{name} ({_columns(columns)})" for name, columns in TABLES.items()]


def arrow_table(name: str, rows: Sequence[Sequence[Any]]) -> pa.Table:
    """Rows of the table `name`, its columns in their order."""
    columns = TABLES[name]
    return pa.table(
        {
            column: pa.array([row[index] for row in rows], ARROW[kind], size=len(rows))
            for index, (column, kind) in enumerate(columns.items())
        }
    )


def data_table(schema: str) -> str:
    """The table of the rows of one schema."""
    return f"d_{schema}"


def data_ddl(alias: str, placement: Placement) -> str:
    """The statement that makes the table of the rows of one schema."""
    columns = {"_snapshot": _U64, "_n": "BIGINT", REST: _U64}
    columns |= {field.name: duckdb_type(field.column) for field in placement.fields}
    return f"CREATE TABLE {alias}.{data_table(placement.schema.id)} ({_columns(columns)})"


def duckdb_type(column: Column) -> str:
    """As `arrow_type` has it."""
    base = _TYPES[column.type]
    return base if column.count is None or column.type in ("char", "bytes") else f"{base}[]"


def _columns(columns: dict[str, str]) -> str:
    return ", ".join(f"{quoted(name)} {kind}" for name, kind in columns.items())

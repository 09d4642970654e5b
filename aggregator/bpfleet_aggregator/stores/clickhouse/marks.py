"""High-water marks: the highest seq of each spool whose rows are all stored. They live in ClickHouse, not
here.

Why this is right, whoever dies when:

- A batch's rows are written first, then its marks. So a mark says only what is true; where it is missing,
the agent sends again what is stored, and it collapses with what is there (see `tables`).
- A mark is a maximum: two aggregators that write marks of one spool can't lower it, in whatever order they
do.
- An agent that moves to another aggregator is told the mark of that moment. The one that it left may still be
  writing an older batch: rows that come twice are the same rows, and its marks are not above what it wrote.
- A replica that lags tells an older mark, which is as one that is missing. So nothing waits for it: neither
  sequential consistency nor quorum inserts one by one are needed for what is stored to be stored once.
- Over several shards the marks of an agent are on the shard where its rows are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import pyarrow as pa

from bpfleet_aggregator.stores.clickhouse.literals import text
from bpfleet_aggregator.stores.clickhouse.native import InsertColumn
from bpfleet_aggregator.stores.clickhouse.server import Server, rows_of

__all__ = ["columns_of", "read_marks"]

_ASKED_AT_ONCE = 500


def read_marks(server: Server, table: str, spools: Sequence[tuple[str, str]]) -> list[int]:
    """The mark of each (agent, spool), 0 where there is none."""
    found: dict[tuple[str, str], int] = {}
    for begin in range(0, len(spools), _ASKED_AT_ONCE):
        some = ", ".join(f"({text(a)}, {text(s)})" for a, s in spools[begin : begin + _ASKED_AT_ONCE])
        asked = (
            f"SELECT agent, spool, max(seq) AS mark FROM {table} WHERE (agent, spool) IN ({some})"
            " GROUP BY agent, spool"
        )
        for row in rows_of(server, asked):
            found[str(row["agent"]), str(row["spool"])] = int(str(row["mark"]))
    return [found.get(spool, 0) for spool in spools]


def columns_of(marks: Mapping[tuple[str, str], int]) -> list[InsertColumn]:
    """What is inserted for the marks of a batch."""
    days = int(datetime.now(UTC).timestamp()) // 86400
    return [
        InsertColumn("agent", "String", pa.array([agent for agent, _ in marks], pa.string())),
        InsertColumn("spool", "String", pa.array([spool for _, spool in marks], pa.string())),
        InsertColumn("seq", "UInt64", pa.array(list(marks.values()), pa.uint64())),
        InsertColumn("updated", "Date", pa.array([days] * len(marks), pa.uint16())),
    ]

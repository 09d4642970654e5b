"""The relations that questions name: views over all partitions.

They are made anew when partitions or schemas come and go; a question that has begun goes on with those it
found.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import duckdb

from bpfleet_aggregator.stores.duckdb.engine import quoted, text
from bpfleet_aggregator.stores.duckdb.partitions import Partition
from bpfleet_aggregator.stores.duckdb.rate_view import rate_view
from bpfleet_aggregator.stores.duckdb.summary import agents_view, collectors_view, losses_view
from bpfleet_aggregator.stores.duckdb.tables import data_table, duckdb_type
from bpfleet_aggregator.stores.relations import Placement, Relations

__all__ = ["Views"]

SNAPSHOT_COLUMNS = (
    "agent, host, collector, map, relation, time, t0, t1, seq, part, parts, rows, entries, max_entries, "
    "complete, method, failed_insert, truncated, losses, spool, spool_seq, received, boot, run, generation, "
    "schema"
)


class Views:
    """The views of one in-memory database."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        self._made: dict[str, str] = {}

    def refresh(self, partitions: Sequence[Partition], relations: Relations) -> None:
        """Have the views show just these partitions."""
        wanted = dict(_views(partitions, relations))
        self._connection.execute("BEGIN")
        for name in self._made.keys() - wanted.keys():
            self._connection.execute(f"DROP VIEW {name}")
        for name, sql in wanted.items():
            if self._made.get(name) != sql:
                self._connection.execute(f"CREATE OR REPLACE VIEW {name} AS {sql}")
        self._connection.execute("COMMIT")
        self._made = wanted


def _views(partitions: Sequence[Partition], relations: Relations) -> Iterable[tuple[str, str]]:
    for table in ("snapshots", "gaps", "statuses", "schemas"):
        yield f"store.{table}", _union(one.records(table) for one in partitions)
    yield "snapshots", f"SELECT {SNAPSHOT_COLUMNS} FROM store.snapshots"
    # Two gaps that differ in nothing but seq and t1 are a repeat.
    yield (
        "gaps",
        "SELECT agent, host, min(time) AS time, first, last, count, reason, sink, boot, run "
        "FROM store.gaps GROUP BY agent, host, boot, run, first, last, count, reason, sink",
    )
    yield "statuses", "SELECT agent, host, time, seq, body, boot, run, t1, received FROM store.statuses"
    yield "schemas", "SELECT DISTINCT * FROM store.schemas"
    yield "losses", losses_view(partitions)
    yield "agents", agents_view(partitions)
    yield "collectors", collectors_view(partitions)
    placements: dict[str, list[Placement]] = {}
    for placement in relations.placements():
        placements.setdefault(placement.relation.name, []).append(placement)
    for placed in placements.values():
        branches = [
            _branch(partition, placement)
            for partition in partitions
            for placement in placed
            if data_table(placement.schema.id) in partition.tables
        ]
        if not branches:
            continue
        relation = placed[0].relation
        fields = ", ".join(f"d.{quoted(field.name)}" for field in relation.fields)
        # All of the relation's columns, though no schema that is still here has some of them.
        own = {"_snapshot": "UBIGINT", "_n": "BIGINT", "_rest": "UBIGINT"}
        types = own | {field.name: duckdb_type(field.column) for field in relation.fields}
        nothing = ", ".join(f"NULL::{kind} AS {quoted(name)}" for name, kind in types.items())
        data = f"store.{relation.name}"
        yield (
            data,
            " UNION ALL BY NAME ".join([f"SELECT {nothing} WHERE false", *branches]),
        )
        yield (
            relation.name,
            "SELECT s.time, s.agent, s.host, s.boot, s.run, s.generation, s.t1, s.seq, "
            f"(d._n - s.base)::UINTEGER AS row, {fields} FROM {data} d "
            f"JOIN store.snapshots s ON d._snapshot = s.snapshot AND s.relation = {text(relation.name)}",
        )
        if relation.has_rate:
            yield relation.rate_name, rate_view(relation, data, [one.number for one in partitions])


def _branch(partition: Partition, placement: Placement) -> str:
    fields = ", ".join(quoted(field.name) for field in placement.fields)
    table = data_table(placement.schema.id)
    return f"SELECT _snapshot, _n, _rest, {fields} FROM {partition.alias}.{table}"


def _union(selects: Iterable[str]) -> str:
    return " UNION ALL ".join(selects)

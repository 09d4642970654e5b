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
from bpfleet_aggregator.stores.duckdb.tables import data_table, duckdb_type
from bpfleet_aggregator.stores.relations import Placement, Relations

__all__ = ["Views"]

SNAPSHOT_COLUMNS = (
    "agent, host, collector, map, relation, time, t0, t1, seq, part, parts, rows, entries, max_entries, "
    "complete, method, failed_insert, truncated, spool, spool_seq, received, boot, run, generation, schema"
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
        yield f"store.{table}", _union(f"SELECT * FROM {one.alias}.{table}" for one in partitions)
    yield "snapshots", f"SELECT {SNAPSHOT_COLUMNS} FROM store.snapshots"
    # Two gaps that differ in nothing but seq and t1 are a repeat.
    yield (
        "gaps",
        "SELECT agent, host, min(time) AS time, first, last, count, reason, sink, boot, run "
        "FROM store.gaps GROUP BY agent, host, boot, run, first, last, count, reason, sink",
    )
    yield "statuses", "SELECT agent, host, time, seq, body, boot, run, t1, received FROM store.statuses"
    yield "schemas", "SELECT DISTINCT * FROM store.schemas"
    yield "agents", _AGENTS
    yield "collectors", _COLLECTORS
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


_LATEST = """
    SELECT agent, arg_max(host, received) AS host, max(received) AS received,
           arg_max(body, (received, seq)) AS body
    FROM store.statuses GROUP BY agent"""

_AGENTS = f"""
WITH told AS (
    SELECT agent, host, boot, run, time, received, 1 AS records, 0 AS gaps FROM store.snapshots
    UNION ALL SELECT agent, host, boot, run, time, received, 1, 0 FROM store.statuses
    UNION ALL SELECT agent, host, boot, run, NULL, time, 1, 1 FROM store.gaps
), seen AS (
    SELECT agent, arg_max(host, received) AS host, min(received) AS first_seen, max(received) AS last_seen,
           arg_max(boot, received) AS boot, arg_max(run, received) AS run,
           arg_max(epoch_us(received) - epoch_us(time), (received, time)) / 1e6 AS clock_offset_s,
           sum(records)::UBIGINT AS records
    FROM told GROUP BY agent
), lost AS (
    SELECT agent, count(*)::UBIGINT AS gaps, sum(count)::UBIGINT AS lost FROM gaps GROUP BY agent
), latest AS ({_LATEST})
SELECT seen.agent, seen.host, first_seen, last_seen, seen.boot, seen.run,
       json_extract_string(body, '$.software.version') AS version,
       json_extract_string(body, '$.software.kernel') AS kernel,
       coalesce(json_extract(body, '$.labels')::VARCHAR, '{{}}') AS labels,
       clock_offset_s, records,
       coalesce(lost.gaps, 0)::UBIGINT AS gaps, coalesce(lost.lost, 0)::UBIGINT AS lost
FROM seen LEFT JOIN lost USING (agent) LEFT JOIN latest USING (agent)"""

_COLLECTORS = f"""
WITH latest AS ({_LATEST}), each AS (
    SELECT agent, host, received, unnest(json_extract(body, '$.collectors[*]')) AS one FROM latest
)
SELECT agent, host, json_extract_string(one, '$.name') AS collector,
       coalesce(json_extract_string(one, '$.version'), '') AS version,
       json_extract_string(one, '$.state') AS state,
       coalesce(json_extract_string(one, '$.error.what'), '') AS error,
       coalesce(json_extract_string(one, '$.error.remedy'), '') AS remedy,
       TRY_CAST(json_extract_string(one, '$.generation') AS UBIGINT) AS generation,
       TRY_CAST(json_extract_string(one, '$.interval_s') AS DOUBLE) AS interval_s, received AS last_seen
FROM each"""

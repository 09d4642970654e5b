"""The relations: views that show each record once, whatever was stored twice.

A view reads its table with FINAL. Its text says which release made it, by a hash in front, so that an aggregator
can tell whether a view is as it is to be without comparing what the server made of its SQL.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from bpfleet_aggregator.stores.clickhouse.literals import quoted, text
from bpfleet_aggregator.stores.clickhouse.tables import COLLECTORS, GAPS, SNAPSHOTS, STATUSES, Tables
from bpfleet_aggregator.stores.relations import FIXED, Field, Placement, Relation

__all__ = ["field_expressions", "marker", "own_views", "relation_view"]


def marker(select: str) -> str:
    """What a view of that SQL is known by."""
    return f"bpfleet {hashlib.sha256(select.encode()).hexdigest()[:16]}"


def field_expressions(relation: Relation, placements: Iterable[Placement]) -> Mapping[str, str]:
    """How each field is read: NULL (an empty array) in rows whose schema does not have it."""
    schemas = [one for one in placements if one.relation.name == relation.name]
    return {field.name: _expression(field, schemas) for field in relation.fields}


def _expression(field: Field, schemas: Sequence[Placement]) -> str:
    lacking = [one.schema.id for one in schemas if field.name not in {other.name for other in one.fields}]
    name = quoted(field.name)
    if not lacking or field.column.count is not None and field.column.type not in ("char", "bytes"):
        return name  # an array that is not stored is empty as it is
    return f"if(`Schema` IN ({', '.join(map(text, lacking))}), NULL, {name})"


def _seconds(later: str, earlier: str) -> str:
    """The seconds between two points in time, to the microsecond, in either dialect."""
    return f"(toFloat64({later}) - toFloat64({earlier}))"


def relation_view(relation: Relation, placements: Iterable[Placement], tables: Tables) -> str:
    """What a map's relation selects."""
    fields = field_expressions(relation, placements)
    columns = [quoted(name) for name in FIXED]
    columns += [name if name == quoted(key) else f"{name} AS {quoted(key)}" for key, name in fields.items()]
    return f"SELECT {', '.join(columns)} FROM {tables.named(f'Rows_{relation.name}')} FINAL"


def own_views(tables: Tables, schemas: str) -> dict[str, str]:
    """The relations that are no map's, by name; `schemas` selects the registry."""
    shots, gaps, statuses, collectors = (
        f"{tables.named(name)} FINAL" for name in (SNAPSHOTS, GAPS, STATUSES, COLLECTORS)
    )
    # One row for each record, so that one pass finds the latest of everything; `Order` sorts records of an agent.
    records = " UNION ALL ".join(
        f"SELECT agent, host, boot, run, time, `Received`, (`Received`, {order}) AS `Order`,"
        f" {lost} AS lost, {is_gap} AS is_gap FROM {name}"
        for name, order, lost, is_gap in (
            (shots, "seq", "toUInt64(0)", 0),
            (statuses, "seq", "toUInt64(0)", 0),
            (gaps, "seq", "`count`", 1),
        )
    )
    latest = "(`Received`, seq)"
    told = (
        f"SELECT agent, argMax(version, {latest}) AS version, argMax(kernel, {latest}) AS kernel,"
        f" argMax(labels, {latest}) AS labels FROM {statuses} GROUP BY agent"
    )
    seen = (
        "SELECT agent, argMax(host, `Order`) AS host, min(time) AS first_seen, max(time) AS last_seen,"
        " argMax(boot, `Order`) AS boot, argMax(run, `Order`) AS run,"
        f" argMaxIf({_seconds('`Received`', 'time')}, `Order`, is_gap = 0) AS clock_offset_s,"
        " count() AS records, toUInt64(sum(is_gap)) AS gaps, sum(lost) AS lost"
        f" FROM ({records}) GROUP BY agent"
    )
    newest = f"SELECT agent, argMax((run, seq, boot), {latest}) AS of FROM {statuses} GROUP BY agent"
    return {
        "agents": "SELECT agent, host, first_seen, last_seen, boot, run, version, kernel, labels, clock_offset_s,"
        f" records, gaps, lost FROM ({seen}) ANY LEFT JOIN ({told}) USING (agent)",
        "collectors": "SELECT agent, host, collector, version, state, error, generation, interval_s,"
        f" time AS last_seen FROM {collectors} WHERE (agent, run, seq, boot) IN"
        f" (SELECT agent, of.1, of.2, of.3 FROM ({newest}))",
        "snapshots": f"SELECT agent, host, collector, `map`, relation, time, t0, t1, seq, part, parts, `rows`, entries,"
        " max_entries, complete, method, failed_insert, truncated, `Spool` AS spool, `SpoolSeq` AS spool_seq,"
        f" `Received` AS received FROM {shots}",
        "gaps": f"SELECT agent, host, time, `first`, `last`, `count`, reason, sink FROM {gaps}",
        "statuses": f"SELECT agent, host, time, seq, body FROM {statuses}",
        "schemas": schemas,
    }

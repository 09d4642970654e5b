"""The relations: views that show each record once, whatever was stored twice.

A view reads its table with FINAL. Its text says which release made it, by a hash in front, so that an
aggregator can tell whether a view is as it is to be without comparing what the server made of its SQL.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from bpfleet_aggregator.stores.clickhouse.dialect import Dialect
from bpfleet_aggregator.stores.clickhouse.literals import quoted, text
from bpfleet_aggregator.stores.clickhouse.tables import COLLECTORS, GAPS, SNAPSHOTS, STATUSES, Tables
from bpfleet_aggregator.stores.losses import COUNTS, OF_A_READ, REASONS
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
    if not lacking or (field.column.count is not None and field.column.type not in ("char", "bytes")):
        return name  # an array that is not stored is empty as it is
    return f"if(`Schema` IN ({', '.join(map(text, lacking))}), NULL, {name})"


def relation_view(relation: Relation, placements: Iterable[Placement], tables: Tables) -> str:
    """What a map's relation selects."""
    fields = field_expressions(relation, placements)
    columns = [quoted(name) for name in FIXED]
    columns += [name if name == quoted(key) else f"{name} AS {quoted(key)}" for key, name in fields.items()]
    return f"SELECT {', '.join(columns)} FROM {tables.data(f'Rows_{relation.name}')} FINAL"


_KEPT_BEFORE = ", ".join(
    f"if(ifNull({kind}, 0) > 0, concat('\"{kind}\":', toString(assumeNotNull({kind}))), '')"
    for kind in ("failed_insert", "truncated")
)
_LOSSES = (
    "if(isNull(losses) AND (failed_insert > 0 OR truncated > 0), concat('{',"
    f" arrayStringConcat(arrayFilter(one -> one != '', [{_KEPT_BEFORE}]), ','), '}}'), losses)"
)
"""What a snapshot says is lost; one of an older release kept two kinds, in their own columns."""


def own_views(tables: Tables, dialect: Dialect, schemas: str) -> dict[str, str]:
    """The relations that are no map's, by name; `schemas` selects the registry."""
    shots, gaps, statuses, collectors = (
        f"{tables.data(name)} FINAL" for name in (SNAPSHOTS, GAPS, STATUSES, COLLECTORS)
    )
    # Two gaps that differ in nothing but seq and t1 are a repeat (docs/wire.md).
    told = "agent, host, boot, run, `first`, `last`, `count`, reason, sink"
    each_gap = f"SELECT {told}, min(time) AS told_at FROM {gaps} GROUP BY {told}"
    return {
        "agents": _agents(shots, statuses, gaps, each_gap, dialect),
        "collectors": _collectors(shots, statuses, collectors, "GLOBAL IN" if tables.is_spread else "IN"),
        "losses": _losses(shots),
        "snapshots": f"SELECT agent, host, collector, `map`, relation, time, t0, t1, seq, part, parts,"
        " `rows`, entries,"
        f" max_entries, complete, method, failed_insert, truncated, {_LOSSES} AS losses,"
        " `Spool` AS spool, `SpoolSeq` AS spool_seq,"
        f" `Received` AS received, boot, run, generation, `Schema` AS `schema` FROM {shots}",
        "gaps": "SELECT agent, host, told_at AS time, `first`, `last`, `count`, reason, sink, boot, run"
        f" FROM ({each_gap})",
        "statuses": "SELECT agent, host, time, seq, body, boot, run, t1, `Received` AS received"
        f" FROM {statuses}",
        "schemas": schemas,
    }


def _agents(shots: str, statuses: str, gaps: str, each_gap: str, dialect: Dialect) -> str:
    """One pass over all records, one row for each: the latest of everything is found without a join."""
    nothing = "CAST(NULL AS Nullable(String))"
    offset = dialect.seconds_between("`Received`", "time")
    told = "agent, host, boot, run, `Received`, seq"
    records = (
        f"SELECT {told}, 'snapshot' AS kind, {offset} AS late, {nothing} AS said_version, {nothing} AS"
        f" said_kernel,"
        f" {nothing} AS said_labels, toUInt64(0) AS missing FROM {shots}"
        f" UNION ALL SELECT {told}, 'status', {offset}, version, kernel, CAST(labels AS Nullable(String)),"
        f" toUInt64(0) FROM {statuses}"
        f" UNION ALL SELECT {told}, 'gap', toFloat64(0), {nothing}, {nothing}, {nothing}, toUInt64(0) FROM"
        f" {gaps}"
        # Each loss once, though it was told twice.
        " UNION ALL SELECT agent, host, boot, run, told_at, toUInt64(0), 'loss', toFloat64(0),"
        f" {nothing}, {nothing}, {nothing}, `count` FROM ({each_gap})"
    )
    # A tuple holds a NULL; argMax would step over it.
    version, kernel, labels = (
        f"argMaxIf(tuple(said_{name}), (`Received`, seq), kind = 'status').1"
        for name in ("version", "kernel", "labels")
    )
    latest = f"{version} AS version, {kernel} AS kernel, ifNull({labels}, '{{}}') AS labels"
    known = (
        "SELECT agent, argMax(host, (`Received`, seq)) AS host, min(`Received`) AS first_seen,"
        " max(`Received`) AS last_seen, argMax(boot, (`Received`, seq)) AS boot,"
        f" argMax(run, (`Received`, seq)) AS run, {latest},"
        " if(countIf(kind IN ('snapshot', 'status')) = 0, NULL,"
        " argMaxIf(late, (`Received`, seq), kind IN ('snapshot', 'status'))) AS clock_offset_s,"
        " countIf(kind != 'loss') AS records, countIf(kind = 'loss') AS gaps, sum(missing) AS lost"
        f" FROM ({records}) GROUP BY agent"
    )
    columns = (
        "agent, host, first_seen, last_seen, boot, run, version, kernel, labels, clock_offset_s, records,"
        " gaps, lost"
    )
    return _with_losses(known, columns, "agent", shots)


def _collectors(shots: str, statuses: str, collectors: str, is_in: str) -> str:
    """What the latest status of each agent says."""
    newest = (
        f"SELECT agent, argMax((boot, run, seq), (`Received`, seq)) AS status FROM {statuses} GROUP BY agent"
    )
    columns = "agent, host, collector, version, state, error, remedy, generation, interval_s"
    known = (
        f"SELECT {columns}, `Received` AS last_seen FROM {collectors} WHERE (agent, boot, run, seq) {is_in}"
        f" (SELECT agent, status.1, status.2, status.3 FROM ({newest}))"
    )
    return _with_losses(known, f"{columns}, last_seen", "agent, collector", shots)


def _with_losses(known: str, columns: str, key: str, shots: str) -> str:
    """What is known of each key, and how many losses of all kinds."""
    return (
        f"SELECT {columns}, ifNull(told, 0) AS losses FROM ({known}) AS known ANY LEFT JOIN"
        f" (SELECT {key}, sum(`count`) AS told FROM ({_losses(shots)}) GROUP BY {key}) AS found USING ({key})"
    )


def _losses(shots: str) -> str:
    """The losses of each map and reason, added up as `stores.losses` says."""
    load = "agent, boot, generation, collector, `map`, relation"
    # Few, so that what follows is for few; a read of parts says the same in each.
    texts = (
        f"SELECT {load}, run, {_LOSSES} AS told, argMax(host, time) AS on_host, min(time) AS began,"
        f" max(time) AS ended, uniqExact(`Read`) AS reads FROM {shots} WHERE isNotNull(told)"
        f" GROUP BY {load}, run, told"
    )
    reasons, numbers = (f"extractAll(assumeNotNull(told), {text(one)})" for one in (REASONS, COUNTS))
    kinds = (
        f"SELECT {load}, on_host, began, ended, reads, reason, toUInt64(number) AS counted FROM ({texts})"
        f" ARRAY JOIN {reasons} AS reason, {numbers} AS number"
    )
    # The same count may be in several texts: then it did not grow with the later ones.
    counts = (
        f"SELECT {load}, reason, counted, argMax(on_host, ended) AS of_host, min(began) AS grew,"
        f" max(ended) AS seen, sum(reads) AS times FROM ({kinds}) GROUP BY {load}, reason, counted"
    )
    of_a_read = f"reason IN ({', '.join(map(text, OF_A_READ))})"
    return (
        "SELECT agent, argMax(of_host, seen) AS host, collector, `map`, relation, reason,"
        f" if({of_a_read}, sum(counted * times), max(counted)) AS `count`,"
        f" if({of_a_read}, max(seen), argMax(grew, counted)) AS time, boot, generation"
        f" FROM ({counts}) GROUP BY {load}, reason"
    )

"""Rates as SQL: each row beside that of the read before, by the rules in `bpfleet_aggregator.stores`.

Which read is before which was noted as they were stored, so rows need no sorting: each takes part in its own
read, and as what was before in the next, and both meet by the read's number and the key. A condition on time,
agent or host is applied before anything is read.
"""

from __future__ import annotations

from collections.abc import Sequence

from bpfleet_aggregator.stores.duckdb.engine import quoted, text
from bpfleet_aggregator.stores.duckdb.tables import duckdb_type
from bpfleet_aggregator.stores.relations import Field, Relation

__all__ = ["rate_view"]


def rate_view(relation: Relation, data: str, partitions: Sequence[int]) -> str:
    """The definition of the view; `data` is the view of the relation's rows, `partitions` are those in it.

    A read before that lies in another partition has been removed: then there is none before.
    """
    is_here = f"before >> 32 IN ({', '.join(map(str, partitions))})"
    keys, labels, growing = relation.rate_columns()
    # The names inside are k0…, v0…: no field's name can be in the way.
    key_names = [f"k{index}" for index in range(len(keys))] or ["row"]
    key_values = [f"d.{quoted(field.name)} AS k{index}" for index, field in enumerate(keys.values())] or [
        "(d._n - r.base)::UINTEGER AS row"
    ]
    values = [f"d.{quoted(one.field.name)} AS v{index}" for index, one in enumerate(growing)]
    values += [f"d.{quoted(field.name)} AS l{index}" for index, field in enumerate(labels.values())]
    both = [
        f"any_value(v{index}) FILTER ({role}) AS {name}{index}"
        for index in range(len(growing))
        for role, name in (("is_now", "now"), ("NOT is_now", "old"))
    ]
    both += [f"any_value(l{index}) FILTER (is_now) AS l{index}" for index in range(len(labels))]
    fell = " OR ".join(_fell(one.field, index) for index, one in enumerate(growing))
    shown = [f"k{index} AS {quoted(name)}" for index, name in enumerate(keys)] or ["row"]
    shown += [f"l{index} AS {quoted(name)}" for index, name in enumerate(labels)]
    for index, one in enumerate(growing):
        increase = _increase(one.field, index)
        shown.append(f"{increase} AS {quoted(one.increase)}")
        if one.per_second is not None:
            shown.append(f"({increase})::DOUBLE / seconds AS {quoted(one.per_second)}")
    of_relation = f"relation = {text(relation.name)}"
    groups = f"time, agent, host, read, {', '.join(key_names)}, rest"
    return f"""
WITH roles AS (
    SELECT snapshot, base, true AS is_now, time, agent, host, read FROM store.snapshots WHERE {of_relation}
    UNION ALL
    SELECT b.snapshot, b.base, false, n.time, n.agent, n.host, n.read
    FROM store.snapshots n JOIN store.snapshots b ON b.read = n.before
    WHERE n.{of_relation} AND b.{of_relation} AND n.snapshot = n.read
), entries AS (
    SELECT r.*, d._rest AS rest, {", ".join([*key_values, *values])}
    FROM {data} d JOIN roles r ON d._snapshot = r.snapshot
), pairs AS (
    SELECT {groups}, bool_or(NOT is_now) AS has_old, {", ".join(both)}
    FROM entries GROUP BY {groups} HAVING bool_or(is_now)
), reads AS (
    SELECT snapshot, t1, generation, before_whole, late,
           CASE WHEN {is_here} THEN before END AS before, CASE WHEN {is_here} THEN before_t1 END AS before_t1
    FROM store.snapshots WHERE {of_relation}
), judged AS (
    SELECT *, (t1::HUGEINT - coalesce(before_t1, generation)::HUGEINT)::DOUBLE / 1e9 AS seconds,
           CASE WHEN late OR t1 <= coalesce(before_t1, generation) THEN 'unknown'
                WHEN before IS NULL THEN 'load'
                WHEN has_old THEN CASE WHEN {fell} THEN 'reset' ELSE 'snapshot' END
                WHEN before_whole THEN 'new'
                ELSE 'unknown' END AS since
    FROM pairs JOIN reads ON snapshot = read
)
SELECT time, agent, host, t1, seconds, since, {", ".join(shown)} FROM judged"""


def _fell(field: Field, index: int) -> str:
    if field.column.count is None:
        return f"coalesce(now{index} < old{index}, false)"
    return f"coalesce(list_bool_or(list_transform(now{index}, lambda x, i: x < old{index}[i])), false)"


def _increase(field: Field, index: int) -> str:
    kind = duckdb_type(field.column)
    if field.column.count is None:
        difference = _minus(f"now{index}", f"old{index}", kind)
    else:
        item = _minus("x", f"old{index}[i]", kind.removesuffix("[]"))
        difference = f"list_transform(now{index}, lambda x, i: {item})"
    return f"CASE since WHEN 'unknown' THEN NULL WHEN 'snapshot' THEN {difference} ELSE now{index} END"


def _minus(now: str, old: str, kind: str) -> str:
    """The difference of two numbers of `kind`, of which `now` is not below `old`."""
    if kind in ("FLOAT", "DOUBLE"):
        return f"{now} - {old}"
    if kind.startswith("U"):
        # Where it fell nobody looks at the result, but the database may work it out.
        return f"greatest({now}, {old}) - {old}"
    return f"TRY_CAST({now}::HUGEINT - {old}::HUGEINT AS {kind})"

"""Rate relations: what grew between two reads of a map (stores/__init__.py has the rule), as one SQL text.

Servers before 21.1 have no window functions, and none can join by "the one before". So the reads of a map, and
the rows of a key, are made arrays, sorted, and laid beside themselves one place further on. A row's earlier value
counts only if it comes from the read before: `Reads` says which one that is.
"""

from __future__ import annotations

from collections.abc import Iterable

from bpfleet_aggregator.stores.clickhouse.literals import quoted, text
from bpfleet_aggregator.stores.clickhouse.tables import SNAPSHOTS, Tables
from bpfleet_aggregator.stores.clickhouse.views import field_expressions
from bpfleet_aggregator.stores.relations import Placement, RateField, Relation

__all__ = ["rate_view"]

_STREAM = "agent, boot, generation, `Schema`"
"""What must be the same for two reads to be subtracted."""
_READ = f"{_STREAM}, run, `Read`"
_SHIFTED = "arrayPushFront(arrayPopBack({0}), {0}[1])"
"""An array moved by one place; its first element stands where there is none before."""


def _reads(relation: Relation, tables: Tables) -> str:
    """Each read with the one before it: `Earlier` is whether there is one; its run, seq, t1 and wholeness."""
    each = (
        f"SELECT {_READ}, any(t1) AS ended, min(complete) = 1 AND count() = max(parts) AS whole"
        f" FROM {tables.named(SNAPSHOTS)} FINAL WHERE relation = {text(relation.name)} GROUP BY {_READ}"
    )
    sorted_reads = (
        f"SELECT {_STREAM}, arraySort(x -> (x.1, x.2, x.3), groupArray((ended, run, `Read`, whole))) AS reads"
        f" FROM ({each}) GROUP BY {_STREAM}"
    )
    return (
        f"SELECT {_STREAM}, now.2 AS run, now.3 AS `Read`, place > 1 AS `Earlier`, past.1 AS `EarlierT1`,"
        f" past.2 AS `EarlierRun`, past.3 AS `EarlierRead`, past.4 AS `EarlierWhole` FROM ({sorted_reads})"
        f" ARRAY JOIN reads AS now, {_SHIFTED.format('reads')} AS past, arrayEnumerate(reads) AS place"
    )


def _series(relation: Relation, placements: Iterable[Placement], tables: Tables) -> tuple[str, str]:
    """The rows of each key, each with the one before it: (SQL, the key's columns)."""
    fields = field_expressions(relation, placements)
    keys = [f"{fields[key.name]} AS {quoted(f'K_{key.name}')}" for key in relation.keys] or ["`row` AS `K_row`"]
    names = ", ".join(quoted(f"K_{key.name}") for key in relation.keys) or "`K_row`"
    _, growing = relation.rate_columns()
    values = [f"{fields[one.field.name]} AS {quoted(f'V_{one.field.name}')}" for one in growing]
    members = ", ".join(["t1", "run", "`Read`", "time", "host", *(quoted(f"V_{g.field.name}") for g in growing)])
    plain = (
        f"SELECT {_STREAM}, t1, run, `Read`, time, host, {', '.join([*keys, *values])}"
        f" FROM {tables.named(f'Rows_{relation.name}')} FINAL"
    )
    made = (
        f"SELECT {_STREAM}, {names}, arraySort(x -> (x.1, x.2, x.3), groupArray(({members}))) AS series"
        f" FROM ({plain}) GROUP BY {_STREAM}, {names}"
    )
    return (
        f"SELECT {_STREAM}, {names}, now, past, place > 1 AS `Before`, now.2 AS run, now.3 AS `Read` FROM ({made})"
        f" ARRAY JOIN series AS now, {_SHIFTED.format('series')} AS past, arrayEnumerate(series) AS place"
    ), names


_VALUES = 6
"""Where in a tuple the first growing value stands."""


def _went_down(at: int, growing: RateField) -> str:
    if growing.field.column.count is not None:
        return f"arrayExists((x, y) -> x < y, now.{at}, past.{at})"
    return f"ifNull(now.{at} < past.{at}, 0)"


def _increase(at: int, growing: RateField, kind: str) -> str:
    """The increase: NULL (or an empty array) where unknown."""
    if growing.field.column.count is not None:
        element = kind.removeprefix("Array(").removesuffix(")")
        difference = f"arrayMap((x, y) -> CAST(x - y AS {element}), now.{at}, past.{at})"
        nothing = f"CAST([] AS {kind})"
    else:
        difference = f"CAST(now.{at} - past.{at} AS Nullable({kind}))"
        nothing = "NULL"
    return f"multiIf(since = 'unknown', {nothing}, since = 'snapshot', {difference}, now.{at})"


def rate_view(
    relation: Relation, placements: Iterable[Placement], tables: Tables, types: dict[str, str]
) -> str:
    """What a rate relation selects; `types` are those of the fields."""
    series, names = _series(relation, list(placements), tables)
    keys, growing = relation.rate_columns()
    places = [(_VALUES + index, one) for index, one in enumerate(growing)]
    has_it = "(`Before` AND past.2 = `EarlierRun` AND past.3 = `EarlierRead`)"
    down = " OR ".join(_went_down(at, one) for at, one in places)
    since = (
        f"multiIf(now.1 <= if(`Earlier`, `EarlierT1`, generation), 'unknown', NOT `Earlier`, 'load',"
        f" {has_it}, if({down}, 'reset', 'snapshot'), `EarlierWhole`, 'new', 'unknown')"
    )
    seconds = "(toInt64(now.1) - toInt64(if(`Earlier`, `EarlierT1`, generation))) / 1e9"
    joined = (
        f"SELECT agent, {names}, now, past, {since} AS since, {seconds} AS seconds"
        f" FROM ({series}) ANY INNER JOIN ({_reads(relation, tables)}) USING ({_READ})"
    )
    columns = [f"{quoted(f'K_{field.name}')} AS {quoted(name)}" for name, field in keys.items()] or ["`K_row` AS `row`"]
    for at, one in places:
        columns.append(f"{_increase(at, one, types[one.field.name])} AS {quoted(one.increase)}")
        if one.per_second is not None:
            columns.append(f"{quoted(one.increase)} / seconds AS {quoted(one.per_second)}")
    return (
        "SELECT now.4 AS time, agent, now.5 AS host, now.1 AS t1, seconds, since,"
        f" {', '.join(columns)} FROM ({joined})"
    )

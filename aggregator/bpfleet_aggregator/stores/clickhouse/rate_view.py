"""Rate relations: what grew between two reads of a map (stores/__init__.py has the rule), as one SQL text.

Servers before 21.1 have no window functions, so the reads of a map are made an array, sorted, and laid beside
themselves one place further on. Then each read has two roles: what is now, and what was before in the next
one. A row takes part in both, and the two meet by the later read and the key. A condition on time or agent
leaves few roles, and so few rows to keep in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from bpfleet_aggregator.stores.clickhouse.literals import quoted, text
from bpfleet_aggregator.stores.clickhouse.tables import SNAPSHOTS, Tables
from bpfleet_aggregator.stores.clickhouse.views import field_expressions
from bpfleet_aggregator.stores.relations import Placement, RateField, Relation

__all__ = ["rate_view"]

_STREAM = "agent, boot, generation, `Schema`"
"""What must be the same for two reads to be subtracted."""
_READ = f"{_STREAM}, run, `Read`"
_INTERVAL = "time, host, t1, `Earlier`, `EarlierT1`, `EarlierWhole`, `NowRun`, `NowRead`"


def _roles(relation: Relation, tables: Tables) -> str:
    """Each read as what is now (`IsNow`), and again as what was before in the read after it."""
    each = (
        f"SELECT {_READ}, any(t1) AS ended, min(complete) = 1 AND count() = max(parts) AS whole,"
        " any(time) AS at, any(host) AS on_host"
        f" FROM {tables.data(SNAPSHOTS)} FINAL WHERE relation = {text(relation.name)} GROUP BY {_READ}"
    )
    in_order = (
        f"SELECT {_STREAM}, arraySort(x -> (x.1, x.2, x.3),"
        f" groupArray((ended, run, `Read`, whole, at, on_host))) AS reads FROM ({each}) GROUP BY {_STREAM}"
    )
    pairs = (
        f"SELECT {_STREAM}, now, past, place FROM ({in_order}) ARRAY JOIN reads AS now,"
        " arrayPushFront(arrayPopBack(reads), reads[1]) AS past, arrayEnumerate(reads) AS place"
    )
    return (
        f"SELECT {_STREAM}, if(is_now, now.2, past.2) AS run, if(is_now, now.3, past.3) AS `Read`,"
        " is_now AS `IsNow`, now.5 AS time, now.6 AS host, now.1 AS t1, place > 1 AS `Earlier`,"
        " past.1 AS `EarlierT1`, past.4 AS `EarlierWhole`, now.2 AS `NowRun`, now.3 AS `NowRead`"
        f" FROM ({pairs}) ARRAY JOIN [1, 0] AS is_now WHERE is_now = 1 OR place > 1"
    )


def rate_view(
    relation: Relation, placements: Iterable[Placement], tables: Tables, types: Mapping[str, str]
) -> str:
    """What a rate relation selects; `types` are those of the fields."""
    fields = field_expressions(relation, placements)
    keys, labels, growing = relation.rate_columns()
    # The names inside are K0…, V0…: no field's name can be in the way. `Rest` tells keys apart whose text is
    # the same.
    key_names = [f"`K{index}`" for index in range(len(keys))] or ["`K0`"]
    key_values = [fields[field.name] for field in keys.values()] or ["`row`"]
    entries = [f"{value} AS {name}" for name, value in zip(key_names, key_values, strict=True)]
    entries += [f"{fields[one.field.name]} AS `V{index}`" for index, one in enumerate(growing)]
    entries += [f"{fields[field.name]} AS `L{index}`" for index, field in enumerate(labels.values())]
    rows = f"SELECT {_READ}, `Rest`, {', '.join(entries)} FROM {tables.data(f'Rows_{relation.name}')} FINAL"
    groups = f"{_STREAM}, {_INTERVAL}, {', '.join(key_names)}, `Rest`"
    both = "".join(
        f", anyIf(`V{index}`, `IsNow` = 1) AS `N{index}`, anyIf(`V{index}`, `IsNow` = 0) AS `O{index}`"
        for index in range(len(growing))
    )
    both += "".join(f", anyIf(`L{index}`, `IsNow` = 1) AS `A{index}`" for index in range(len(labels)))
    met = (
        f"SELECT {groups}, min(`IsNow`) = 0 AS `HasOld`{both}"
        f" FROM ({rows}) AS entries ALL INNER JOIN ({_roles(relation, tables)}) AS roles USING ({_READ})"
        f" GROUP BY {groups} HAVING max(`IsNow`) = 1"
    )
    begin = "if(`Earlier`, `EarlierT1`, generation)"
    fell = " OR ".join(_fell(index, one) for index, one in enumerate(growing))
    judged = (
        f"SELECT *, (toInt64(t1) - toInt64({begin})) / 1e9 AS `Seconds`, multiIf(t1 <= {begin}, 'unknown',"
        f" NOT `Earlier`, 'load', `HasOld`, if({fell}, 'reset', 'snapshot'), `EarlierWhole`, 'new',"
        f" 'unknown') AS"
        f" `Since` FROM ({met})"
    )
    columns = [f"{name} AS {quoted(key)}" for name, key in zip(key_names, keys or ["row"], strict=True)]
    columns += [f"`A{index}` AS {quoted(name)}" for index, name in enumerate(labels)]
    for index, one in enumerate(growing):
        increase = _increase(index, one, types[one.field.name])
        columns.append(f"{increase} AS {quoted(one.increase)}")
        if one.per_second is not None:
            columns.append(f"{increase} / `Seconds` AS {quoted(one.per_second)}")
    return (
        f"SELECT time, agent, host, t1, `Seconds` AS seconds, `Since` AS since, {', '.join(columns)}"
        f" FROM ({judged})"
    )


def _fell(index: int, growing: RateField) -> str:
    if growing.field.column.count is not None:
        return f"arrayExists((x, y) -> x < y, `N{index}`, {_old_array(index)})"
    return f"ifNull(`N{index}` < `O{index}`, 0)"


def _old_array(index: int) -> str:
    """What was before, or something as long: servers insist on it where nobody looks at the result, too."""
    return f"if(`HasOld`, `O{index}`, `N{index}`)"


def _increase(index: int, growing: RateField, kind: str) -> str:
    """The increase: NULL (or an empty array) where unknown."""
    if growing.field.column.count is not None:
        element = kind[len("Array(") : -1]
        difference = f"arrayMap((x, y) -> CAST(x - y AS {element}), `N{index}`, {_old_array(index)})"
        nothing = f"CAST([] AS {kind})"
    else:
        difference = f"CAST(`N{index}` - `O{index}` AS Nullable({kind}))"
        nothing = "NULL"
    return f"multiIf(`Since` = 'unknown', {nothing}, `Since` = 'snapshot', {difference}, `N{index}`)"

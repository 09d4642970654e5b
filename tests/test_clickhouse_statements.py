"""What a cluster of current servers would be told, and what the page shows, is right for the current engine.

Debian's servers run these statements (tests/test_clickhouse_replicas.py, tests/test_clickhouse_shards.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bpfleet_aggregator.stores.clickhouse.dialect import Dialect
from bpfleet_aggregator.stores.clickhouse.failures import Refused
from bpfleet_aggregator.stores.clickhouse.literals import text
from bpfleet_aggregator.stores.clickhouse.rate_view import rate_view
from bpfleet_aggregator.stores.clickhouse.server import rows_of
from bpfleet_aggregator.stores.clickhouse.settings import ClickhouseSettings
from bpfleet_aggregator.stores.clickhouse.tables import Table, Tables, own_tables, rows_table
from bpfleet_aggregator.stores.clickhouse.views import own_views, relation_view
from bpfleet_aggregator.stores.relations import Relations
from clickhouse_servers import Engine
from fleet_records import CALLS

PAGE = (Path(__file__).parent.parent / "docs" / "clickhouse.md").read_text()
CURRENT = Dialect((26, 9), True)

Parse = Callable[[str], str]


@pytest.fixture
def parse(clickhouse_engine: Engine) -> Parse:
    """The engine's own form of a statement; Refused where it is none."""
    return lambda sql: str(rows_of(clickhouse_engine, f"SELECT formatQuery({text(sql)}) AS sql")[0]["sql"])


def test_what_is_no_statement_is_refused(parse: Parse) -> None:
    with pytest.raises(Refused, match="Syntax error"):
        parse("CREATE TABLE a ON ALL (b UInt8)")


def test_every_statement_for_a_cluster_is_one(parse: Parse) -> None:
    settings = ClickhouseSettings(cluster="fleet", replicated=True)
    tables = Tables(settings, CURRENT, is_spread=True)
    relations = Relations()
    relations.place(CALLS)
    (relation,), placements = list(relations), relations.placements()
    types = {field.name: CURRENT.type_of(field.column) for field in relation.fields}
    assert "ON CLUSTER fleet" in parse(tables.create_database())
    for table in [*own_tables(CURRENT), rows_table(relation, CURRENT)]:
        made = parse(tables.create(table))
        assert "ON CLUSTER fleet" in made
        assert "ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/bpfleet/" in made
        spread = parse(tables.create_spread(table.name))
        assert f"Distributed(fleet, bpfleet, {table.name}, cityHash64(agent))" in spread.replace("`", "")
        assert "ON CLUSTER fleet" in parse(tables.drop_spread(table.name))
        assert "ON CLUSTER fleet" in parse(tables.add_column(table, next(iter(table.columns))))
        assert "ON CLUSTER fleet" in parse(tables.drop_partition(table.name, "2026-11-26"))
    views = own_views(tables, CURRENT, "SELECT 1")
    views |= {"r": relation_view(relation, placements, tables)}
    views |= {"r_rate": rate_view(relation, placements, tables, types)}
    for name, select in views.items():
        made = parse(f"CREATE OR REPLACE VIEW {tables.named(name)}{tables.everywhere} AS {select}")
        assert "ON CLUSTER fleet" in made
        read = set(re.findall(r"bpfleet\.`?(\w+)`? (?:AS \w+ )?FINAL|bpfleet\.`?(\w+)`?\s+FINAL", made))
        assert read or name == "schemas", name
        assert all(one.startswith("All_") for pair in read for one in pair if one), name


def test_every_setting_of_writes_is_known_to_the_current_engine(clickhouse_engine: Engine) -> None:
    known = {str(row["name"]) for row in rows_of(clickhouse_engine, "SELECT name FROM system.settings")}
    wanted = {"insert_deduplicate", "insert_quorum", "insert_quorum_parallel", "insert_quorum_timeout"}
    wanted |= {"distributed_ddl_task_timeout", "distributed_foreground_insert", "async_insert"}
    assert wanted <= known


def test_the_statements_that_the_page_shows_are_right(parse: Parse) -> None:
    shown = re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)
    assert len(shown) == 2
    for block in shown:
        for statement in block.split(";"):
            assert parse(statement.strip())


def shown_tables() -> dict[str, tuple[list[str], str]]:
    """Of each table on the page: what orders it, what partitions it."""
    found = re.findall(r"^\| `([A-Z]\w+)` \| .*? \| (.*?) \| (.*?) \|$", PAGE, re.MULTILINE)
    return {name: (re.findall(r"`(.*?)`", order), partition.strip("`")) for name, order, partition in found}


def test_the_page_says_how_each_table_is_ordered_and_partitioned() -> None:
    relations = Relations()
    relations.place(CALLS)

    def described(table: Table) -> tuple[list[str], str]:
        order = [one.replace("`", "") for one in table.order]
        return order, table.partition.replace("`", "").replace("tuple()", "none")

    wanted: dict[str, Any] = {table.name: described(table) for table in own_tables(CURRENT)}
    wanted["Rows_RELATION"] = described(rows_table(next(iter(relations)), CURRENT))
    assert shown_tables() == wanted

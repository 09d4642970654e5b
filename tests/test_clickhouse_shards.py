"""Two ClickHouse shards with ZooKeeper, each with a store beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace as altered

from bpfleet.errors import StoreError
from bpfleet.plugins import Plugins
from bpfleet.settings import Duration
from bpfleet.stores import StoreContext
from clickhouse_cluster import Cluster, places_of, running, within
from clickhouse_older import UPGRADED, upgrade
from clickhouse_servers import Place
from fleet_records import CALLS, GLOBALS, origin, received, snapshot
from test_clickhouse_delivery import schemas
from test_stores_agree import QUESTIONS, RELATIONS, fleet, ordered

DAY = 86400 * 10**9


@pytest.fixture(scope="module")
def shards() -> Iterator[Cluster]:
    """Two shards of one replica."""
    yield from running(2, 1)


@pytest.fixture
def halves(shards: Cluster, tmp_path: Path) -> Iterator[list[Place]]:
    """A database on two shards, as seen from each."""
    yield from places_of(shards, tmp_path)


def shot(days_ago: int, seq: int, agent: str = "a1") -> Any:
    made = snapshot(GLOBALS, [(1, 0.5)], seq=seq, seconds=20, origin=origin(agent))
    return altered(made, wall_offset=made.wall_offset - days_ago * DAY)


def of_agents(agents: int, seqs: range) -> list[Any]:
    return [
        one
        for number in range(agents)
        for one in received(
            [
                snapshot(GLOBALS, [(seq, 0.5)], seq=seq, seconds=20 + seq, origin=origin(f"agent{number}"))
                for seq in seqs
            ],
            first=seqs.start,
        )
    ]


def on_its_own(place: Place) -> int:
    """Rows that this server has itself."""
    (row,) = place.ask("SELECT count(*) AS n FROM Rows_sys_calls_bss FINAL")
    return int(row["n"])


def test_an_agents_rows_are_on_one_shard_whoever_stores_them(halves: list[Place]) -> None:
    here, there = (place.store() for place in halves)
    here.commit(of_agents(20, range(1, 6)))
    there.commit(of_agents(20, range(3, 9)))
    spools = [(f"agent{number}", "s1") for number in range(20)]
    assert here.marks(spools) == there.marks(spools) == [8] * 20
    for place in halves:
        assert place.ask("SELECT agent, count(*) AS n FROM sys_calls_bss GROUP BY agent ORDER BY agent") == [
            {"agent": agent, "n": 8} for agent, _ in sorted(spools)
        ]
    counts = [on_its_own(place) for place in halves]
    assert sum(counts) == 160
    assert all(counts)


def test_every_relation_and_question_over_shards_is_as_in_the_embedded_store(
    halves: list[Place], tmp_path: Path
) -> None:
    kind = Plugins().store_type("duckdb")
    settings, context = kind.settings(), StoreContext("duckdb", tmp_path)
    with_one = kind.open(settings, context)
    with_one.commit(fleet())
    with_one.close()
    embedded = kind.read(settings, context)
    stores = [place.store() for place in halves]
    stores[0].commit(fleet())
    stores[1].commit(fleet()[5:])
    for place in halves:
        for name in RELATIONS:
            sql = f"SELECT * FROM {name}"
            mine, other = place.reader().query(sql).read_all(), embedded.query(sql).read_all()
            if name == "snapshots":  # flags are 0 and 1 on 18.16
                mine, other = (table.drop_columns(["complete"]) for table in (mine, other))
            assert ordered(mine) == ordered(other), name
        for sql in QUESTIONS:
            assert len(place.ask(sql)) == embedded.query(sql).read_all().num_rows, sql
    embedded.close()


def test_a_column_that_a_new_schema_adds_is_on_all_shards(halves: list[Place]) -> None:
    old, new = (place.store() for place in halves)
    agents = [f"agent{number}" for number in range(8)]

    def shots(schema: Any, extra: Sequence[int], seq: int) -> list[Any]:
        rows = [(b"sh", 0, 1, 1, [0] * 6, 0, *extra)]
        return [
            one
            for agent in agents
            for one in received(
                [snapshot(schema, rows, seq=seq, seconds=20 + seq, origin=origin(agent))], first=seq
            )
        ]

    old.commit(shots(CALLS, (), 1))
    new.commit(shots(schemas(1)[0], (7,), 2))
    old.commit(shots(CALLS, (), 3))
    old.commit(shots(schemas(1)[0], (8,), 4))
    for place in halves:
        found = place.ask("SELECT t1, count(*) AS n, max(extra) AS extra FROM sys_calls_by_comm GROUP BY t1")
        assert sorted((row["n"], row["extra"] or 0) for row in found) == [(8, 0), (8, 0), (8, 7), (8, 8)]


def test_with_a_shard_down_nothing_is_acknowledged_and_later_all_is(
    halves: list[Place], shards: Cluster
) -> None:
    store = halves[0].store()
    store.commit(of_agents(20, range(1, 4)))
    shards.servers[1].kill()
    with pytest.raises(StoreError):
        store.commit(of_agents(20, range(4, 7)))
    shards.servers[1].start()

    def stored() -> bool:
        try:
            store.commit(of_agents(20, range(4, 7)))
        except StoreError:
            return False
        return True

    within(60, stored)
    for place in halves:
        assert place.ask("SELECT count(*) AS n FROM sys_calls_bss") == [{"n": 120}]


def test_days_go_from_every_shard_also_those_that_only_another_one_has(halves: list[Place]) -> None:
    store = halves[0].store(retention=Duration(10 * 86400.0))
    store.commit([one for n in range(12) for one in received([shot(20 + n, 1, f"agent{n}"), shot(0, 2)])])
    assert all(on_its_own(place) for place in halves)
    store.maintain()
    for place in halves:
        assert place.ask("SELECT count(*) AS n FROM sys_calls_bss WHERE agent LIKE 'agent%'") == [{"n": 0}]


def test_a_database_of_an_older_release_gets_the_column_on_all_shards(halves: list[Place]) -> None:
    upgrade(halves)
    for place in halves:
        for sql, answer in UPGRADED.items():
            assert place.ask(sql) == answer

"""A ClickHouse cluster with ZooKeeper: two replicas, and two shards, each with a store beside it.

Real servers on loopback, killed with SIGKILL. Every count is also asked of each server.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bpfleet.errors import ConfigError, StoreError
from bpfleet.plugins import Plugins
from bpfleet.settings import Duration
from bpfleet.stores import StoreContext
from clickhouse_cluster import Cluster
from clickhouse_servers import Place
from clickhouse_writer import SPOOL, record
from fleet_records import CALLS, GLOBALS, NOW, gap, origin, received, snapshot, status
from test_clickhouse_delivery import counted, schemas, wanted
from test_stores_agree import QUESTIONS, RELATIONS, fleet, ordered

DAY = 86400 * 10**9


def running(folder: Path, shards: int, replicas: int) -> Iterator[Cluster]:
    cluster = Cluster(folder, shards, replicas)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.kill()


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One shard of two replicas."""
    yield from running(tmp_path_factory.mktemp("replicas"), 1, 2)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two shards of one replica."""
    yield from running(tmp_path_factory.mktemp("shards"), 2, 1)


def places_of(cluster: Cluster, state: Path) -> Iterator[list[Place]]:
    made = cluster.places(state)
    yield made
    for server in cluster.servers:
        if not server.is_running:
            server.start()
    for one in made:
        one.close()


@pytest.fixture
def pair(replicas: Cluster, tmp_path: Path) -> Iterator[list[Place]]:
    """A database on two replicas, as seen from each."""
    yield from places_of(replicas, tmp_path)


@pytest.fixture
def halves(shards: Cluster, tmp_path: Path) -> Iterator[list[Place]]:
    """A database on two shards, as seen from each."""
    yield from places_of(shards, tmp_path)


def within(seconds: float, what: Callable[[], bool]) -> None:
    """Replication and servers that come back take a moment."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def eventually(place: Place, sql: str, answer: list[dict[str, Any]]) -> None:
    """That server's answer, once what it lacks has followed."""
    within(60, lambda: place.ask(sql) == answer)


def same_everywhere(places: Sequence[Place], records: int) -> None:
    """Each server shows each record once."""

    def agree() -> bool:
        try:
            return all(counted(place) == wanted(records) for place in places)
        except StoreError:  # a view that another aggregator is just making anew
            return False

    within(60, agree)


def some(first: int, last: int) -> list[Any]:
    return [record(number) for number in range(first, last + 1)]


# ---- two replicas


def test_what_one_replica_was_given_both_show_and_both_know_the_mark(pair: list[Place]) -> None:
    here, there = (place.store() for place in pair)
    here.commit(some(1, 40))
    same_everywhere(pair, 40)
    within(30, lambda: there.marks([SPOOL]) == [40])
    there.commit(some(41, 60))
    same_everywhere(pair, 60)
    within(30, lambda: here.marks([SPOOL]) == [60])


def test_an_agent_that_moves_before_its_mark_has_followed_is_stored_once(pair: list[Place]) -> None:
    """Replication is stopped, so the other server knows nothing: what it is sent again collapses later."""
    here, there = (place.store() for place in pair)
    raw = pair[1].raw()
    raw.run("SYSTEM STOP FETCHES")
    here.commit(some(1, 20))
    assert there.marks([SPOOL]) == [0]
    there.commit(some(1, 30))
    raw.run("SYSTEM START FETCHES")
    raw.close()
    same_everywhere(pair, 30)
    within(30, lambda: here.marks([SPOOL]) == there.marks([SPOOL]) == [30])


def test_aggregators_on_two_replicas_agree_where_new_schemas_go(pair: list[Place]) -> None:
    stores = [place.store() for place in pair]
    plans = [schemas(3), list(reversed(schemas(3)))]
    errors: list[BaseException] = []

    def work(index: int) -> None:
        try:
            for seq, schema in enumerate(plans[index], 1):
                shot = snapshot(schema, [(b"sh", 0, 1, 1, [0] * 6, 0, 9)], seq=seq, seconds=20 + seq)
                mine = replace(shot, origin=origin(f"agent{index}"))
                stores[index].commit(received([mine], first=seq))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
    assert not errors
    placed = [place.ask("SELECT relation, version FROM schemas ORDER BY relation") for place in pair]
    assert placed[0] == placed[1]
    assert len(placed[0]) == 3
    for row in placed[0]:
        for place in pair:
            sql = f"SELECT count(*) AS n, min(extra) AS low FROM {row['relation']}"
            eventually(place, sql, [{"n": 2, "low": 9}])


def test_a_server_that_is_down_keeps_nobody_from_storing_and_has_all_when_it_is_back(
    pair: list[Place], replicas: Cluster
) -> None:
    """Also a map that nobody has seen before, and an aggregator that starts meanwhile."""
    store = pair[0].store()
    store.commit(received([snapshot(GLOBALS, [(1, 0.5), (2, 0.5)], seq=1, seconds=21)]))
    replicas.servers[1].kill()
    store.commit(some(1, 20))
    another = pair[0].store()
    another.commit(some(21, 40))
    assert another.marks([SPOOL]) == [40]
    assert any("follow when they are back" in note for note in pair[0].noted)
    replicas.servers[1].start()
    same_everywhere(pair, 40)
    late = pair[1].store()
    within(30, lambda: late.marks([SPOOL]) == [40])


def test_a_store_whose_server_is_down_acknowledges_nothing_and_goes_on_when_it_is_back(
    pair: list[Place], replicas: Cluster
) -> None:
    here, there = (place.store() for place in pair)
    here.commit(some(1, 20))
    within(30, lambda: there.marks([SPOOL]) == [20])
    replicas.servers[0].kill()
    with pytest.raises(StoreError, match="can't be reached"):
        here.commit(some(21, 30))
    there.commit(some(21, 40))
    replicas.servers[0].start()
    here.commit(some(21, 30))
    same_everywhere(pair, 40)
    within(30, lambda: here.marks([SPOOL]) == [40])


def test_without_zookeeper_nothing_is_acknowledged_and_later_all_is(
    pair: list[Place], replicas: Cluster
) -> None:
    store = pair[0].store()
    store.commit(some(1, 20))
    replicas.zookeeper.kill()
    try:
        with pytest.raises(StoreError) as caught:
            store.commit(some(21, 40))
        assert "ZooKeeper" in caught.value.remedy
        assert store.marks([SPOOL]) == [20]  # reading needs no ZooKeeper
    finally:
        replicas.zookeeper.start()

    def stored() -> bool:
        try:
            store.commit(some(21, 40))
        except StoreError:
            return False
        return True

    within(60, stored)
    same_everywhere(pair, 40)


def test_a_quorum_has_what_was_acknowledged_when_a_replica_is_gone_that_moment(
    pair: list[Place], replicas: Cluster
) -> None:
    here, there = (place.store(quorum=2) for place in pair)
    here.commit(some(1, 20))
    replicas.servers[0].kill()
    assert there.marks([SPOOL]) == [20]
    assert counted(pair[1]) == wanted(20)


def test_without_enough_replicas_for_the_quorum_nothing_is_acknowledged(
    pair: list[Place], replicas: Cluster
) -> None:
    here, there = (place.store(quorum=2) for place in pair)
    here.commit(some(1, 20))
    replicas.servers[0].kill()

    def refused() -> str:
        try:
            there.commit(some(21, 24))
        except StoreError as error:
            return error.what
        return ""

    # ZooKeeper takes a moment to see that the server is dead; until then an insert waits for it in vain.
    within(60, lambda: "less than requested quorum" in refused())
    assert there.marks([SPOOL]) == [20]
    replicas.servers[0].start()
    within(60, lambda: not refused())
    there.commit(some(25, 40))
    same_everywhere(pair, 40)


def test_two_aggregators_may_write_with_a_quorum_at_once(pair: list[Place]) -> None:
    stores = [place.store(quorum=2) for place in pair]
    stores[0].commit(some(1, 4))
    errors: list[BaseException] = []

    def work(index: int) -> None:
        try:
            for seq in range(1, 11):
                shot = snapshot(
                    GLOBALS, [(seq, 0.5)], seq=seq, seconds=20 + seq, origin=origin(f"agent{index}")
                )
                stores[index].commit(received([shot], first=seq))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
    assert not errors
    for place in pair:
        eventually(place, "SELECT count(*) AS n FROM sys_calls_bss WHERE agent LIKE 'agent%'", [{"n": 20}])


def shot(days_ago: int, seq: int, agent: str = "a1") -> Any:
    made = snapshot(GLOBALS, [(1, 0.5)], seq=seq, seconds=20, origin=origin(agent))
    return replace(made, wall_offset=made.wall_offset - days_ago * DAY)


def test_days_that_are_too_old_go_from_all_replicas_also_from_one_that_was_down(
    pair: list[Place], replicas: Cluster
) -> None:
    stores = [place.store(retention=Duration(10 * 86400.0)) for place in pair]
    old = [shot(days, seq) for seq, days in enumerate([30, 12, 8, 0], 1)]
    stores[0].commit([*received(old), *received([status(9, 20)], first=9)])
    count = "SELECT count(*) AS n FROM sys_calls_bss"
    eventually(pair[1], count, [{"n": 4}])
    stores[1].maintain()
    for place in pair:
        eventually(place, count, [{"n": 2}])
    stores[0].commit(received([shot(20, 10), gap(1, 2, t1=1)], first=10, at=NOW - 20 * DAY))
    eventually(pair[1], count, [{"n": 3}])
    replicas.servers[1].kill()
    stores[0].maintain()
    assert pair[0].ask(count) == [{"n": 2}]
    replicas.servers[1].start()
    eventually(pair[1], count, [{"n": 2}])
    eventually(pair[1], "SELECT count(*) AS n FROM gaps", [{"n": 0}])


def test_replicas_without_replicated_tables_are_an_error_of_the_configuration(pair: list[Place]) -> None:
    with pytest.raises(ConfigError, match="2 replicas") as caught:
        pair[0].store(replicated=False)
    assert "replicated = true" in caught.value.remedy


# ---- two shards


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

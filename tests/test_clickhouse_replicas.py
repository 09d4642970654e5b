"""Two ClickHouse replicas with ZooKeeper, each with a store beside it; servers die, nothing is lost."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace as altered

from bpfleet.errors import ConfigError, StoreError
from bpfleet.settings import Duration
from bpfleet_aggregator.stores.clickhouse.server import rows_of
from clickhouse_cluster import Cluster, eventually, places_of, running, same_everywhere, some, within
from clickhouse_older import UPGRADED, upgrade
from clickhouse_servers import Place
from clickhouse_writer import SPOOL
from fleet_records import GLOBALS, NOW, gap, origin, received, snapshot, status
from test_clickhouse_delivery import counted, schemas, wanted

DAY = 86400 * 10**9
PAGE = (Path(__file__).parent.parent / "docs" / "clickhouse.md").read_text()


@pytest.fixture(scope="module")
def replicas() -> Iterator[Cluster]:
    """One shard of two replicas."""
    yield from running(1, 2)


@pytest.fixture
def pair(replicas: Cluster, tmp_path: Path) -> Iterator[list[Place]]:
    """A database on two replicas, as seen from each."""
    yield from places_of(replicas, tmp_path)


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
                mine = altered(shot, origin=origin(f"agent{index}"))
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
    return altered(made, wall_offset=made.wall_offset - days_ago * DAY)


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


def test_a_new_replica_that_was_given_the_definitions_has_all(pair: list[Place]) -> None:
    """As docs/clickhouse.md says, with the question that stands there."""
    store = pair[0].store()
    store.commit(some(1, 20))
    eventually(pair[1], "SELECT count(*) AS n FROM snapshots", [{"n": 10}])
    there, new = pair[0].raw(), pair[1].raw()
    new.run(f"DROP DATABASE {pair[1].database}")
    (question,) = re.findall(r"```sql\n\s*(SELECT create_table_query.*?)```", PAGE, re.DOTALL)
    made = rows_of(there, question.replace("'bpfleet'", f"'{pair[0].database}'"))
    new.run(f"CREATE DATABASE {pair[1].database}")
    for row in made:
        new.run(str(row["create_table_query"]), {"max_query_size": 1 << 26})
    there.close()
    new.close()
    late = pair[1].store()
    late.commit(some(21, 40))
    same_everywhere(pair, 40)
    assert late.marks([SPOOL]) == [40]


def test_a_database_of_an_older_release_gets_the_column_on_all_replicas(pair: list[Place]) -> None:
    upgrade(pair[:1])  # the table of the other is a replica
    for place in pair:
        for sql, answer in UPGRADED.items():
            eventually(place, sql, answer)

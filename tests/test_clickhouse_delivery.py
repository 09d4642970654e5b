"""Each record once in ClickHouse, whatever is killed: the writer, the server, one aggregator of several."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace as altered

from bpfleet.errors import StoreError
from bpfleet.stores import Received
from bpfleet.wire import Column
from clickhouse_older import UPGRADED, upgrade
from clickhouse_servers import Place, ServerProcess
from clickhouse_writer import SPOOL, record
from fleet_records import CALLS, GLOBALS, NOW, received, snapshot

WRITER = Path(__file__).parent / "clickhouse_writer.py"


def counted(place: Place) -> dict[str, int]:
    """Rows of every relation; fails where a record is there twice."""
    once = {
        "sys_calls_by_comm": "agent, t1, seq, row",
        "sys_calls_bss": "agent, t1, seq, row",
        "snapshots": "agent, spool, spool_seq",
        "statuses": "agent, t1, seq",
        "gaps": "agent, first",
        "collectors": "agent, collector",
        "sys_calls_by_comm_rate": "agent, t1, comm, cpu",
    }
    found = {}
    for relation, identity in once.items():
        (row,) = place.ask(f"SELECT count(*) AS n, uniqExact({identity}) AS different FROM {relation}")
        assert row["n"] == row["different"], relation
        found[relation] = row["n"]
    return found


def wanted(records: int) -> dict[str, int]:
    of = [sum(1 for number in range(1, records + 1) if number % 4 == kind) for kind in range(4)]
    return {
        "sys_calls_by_comm": 5 * of[0],
        "sys_calls_bss": 2 * of[1],
        "snapshots": of[0] + of[1],
        "statuses": of[2],
        "gaps": of[3],
        "collectors": 2,
        "sys_calls_by_comm_rate": 5 * of[0],
    }


def test_what_was_committed_is_there_and_marked(place: Place) -> None:
    store = place.store()
    store.commit([record(number) for number in range(1, 41)])
    assert store.marks([SPOOL, ("a1", "other"), ("nobody", "s1")]) == [40, 0, 0]
    assert counted(place) == wanted(40)


def test_marks_of_many_spools_are_asked_at_once(place: Place) -> None:
    store = place.store()
    shots = [
        Received(
            f"a{i}", f"s'{i}\\", i + 1, snapshot(GLOBALS, [(1, 0.5)], seq=1, seconds=20), 1, time.time_ns()
        )
        for i in range(1200)
    ]
    store.commit(shots)
    assert store.marks([(one.agent, one.spool) for one in shots]) == [one.seq for one in shots]
    assert store.marks([]) == []


def test_a_batch_that_comes_again_is_stored_once(place: Place) -> None:
    store = place.store()
    batch = [record(number) for number in range(1, 21)]
    for _ in range(3):
        store.commit(batch)
        assert counted(place) == wanted(20)
    later = [altered(one, at=one.at + 10**12) for one in batch]  # received at another time, on another day
    place.store().commit(later[5:])
    assert counted(place) == wanted(20)
    assert store.marks([SPOOL]) == [20]


def test_a_batch_cut_differently_is_stored_once(place: Place) -> None:
    store = place.store()
    records = [record(number) for number in range(1, 31)]
    for begin, end in ((0, 12), (4, 9), (8, 30), (0, 30), (29, 30)):
        store.commit(records[begin:end])
        assert counted(place) == wanted(max(12, end))


def test_repeats_stay_away_when_the_server_merges(server_place: Place) -> None:
    store = server_place.store()
    batch = [record(number) for number in range(1, 21)]
    store.commit(batch)
    store.commit(batch)
    server = server_place.raw()
    for table in ("Rows_sys_calls_by_comm", "Snapshots", "Gaps", "Statuses", "Marks"):
        server.run(f"OPTIMIZE TABLE {server_place.database}.{table} FINAL")
    server.close()
    assert counted(server_place) == wanted(20)
    assert store.marks([SPOOL]) == [20]


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("after", range(8))
def test_a_commit_that_ends_between_two_inserts_is_made_whole_by_the_next(place: Place, after: int) -> None:
    """Every insert of a batch in turn is the last one that arrives."""
    store = place.store()
    store.commit([record(number) for number in range(1, 5)])
    inner, sent = store._server.insert, 0

    def insert(*arguments: Any, **named: Any) -> None:
        nonlocal sent
        if sent == after:
            raise Interrupted
        sent += 1
        inner(*arguments, **named)

    batch = [record(number) for number in range(5, 13)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store._server, "insert", insert)
        try:
            store.commit(batch)
        except Interrupted:
            assert store.marks([SPOOL]) == [4]
        else:
            assert after > 5
    counted(place)
    other = place.store()
    (mark,) = other.marks([SPOOL])
    other.commit([record(number) for number in range(mark + 1, 13)])
    assert counted(place) == wanted(12)


def writer(place: Place, records: int, batch: int) -> subprocess.Popen[str]:
    settings = place.settings()
    return subprocess.Popen(
        [sys.executable, str(WRITER), settings.url, settings.database, str(records), str(batch)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "BPFLEET_TESTS_NOW": str(NOW)},
    )


def test_a_writer_killed_at_any_moment_loses_and_repeats_nothing(server_place: Place) -> None:
    records, dice, kills, longest = 240, random.Random(7), 0, 0.06
    server_place.store().commit([record(number) for number in range(1, 5)])
    for _ in range(60):
        process = writer(server_place, records, 6)
        longest *= 1.1  # so that it gets to its end on a slow machine too
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            try:
                process.wait(dice.uniform(0.0, longest))
            except subprocess.TimeoutExpired:
                process.kill()
                kills += 1
            process.wait(30)
        finally:
            process.kill()
            process.wait(30)
            process.stdout.close()
        there = counted(server_place)
        assert all(there[name] <= wanted(records)[name] for name in there)
        if process.returncode == 0:
            break
    assert kills >= 5
    assert counted(server_place) == wanted(records)
    assert server_place.store().marks([SPOOL]) == [records]


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[ServerProcess]:
    """A server that a test may kill."""
    server = ServerProcess(tmp_path / "server")
    server.start()
    yield server
    server.kill()


def deliver(place: Place, records: int, batch: int, deadline: float) -> int:
    """As the aggregator and its agents do: what was refused comes again. Returns how often that was."""
    store, failures = None, 0
    mark = 0
    while mark < records:
        assert time.monotonic() < deadline
        try:
            store = store or place.store()
            store.commit([record(number) for number in range(mark + 1, min(mark + batch, records) + 1)])
            (mark,) = store.marks([SPOOL])
        except StoreError:
            failures += 1
            time.sleep(0.02)
    return failures


def test_a_server_killed_at_any_moment_loses_and_repeats_nothing(
    own_server: ServerProcess, tmp_path: Path
) -> None:
    place = Place(own_server, None, tmp_path)
    store = place.store()
    store.commit([record(number) for number in range(1, 5)])
    records, dice, failures = 1200, random.Random(3), []
    deadline = time.monotonic() + 120
    thread = threading.Thread(target=lambda: failures.append(deliver(place, records, 8, deadline)))
    thread.start()
    kills = 0
    while thread.is_alive() and kills < 12:
        thread.join(dice.uniform(0.05, 0.3))
        own_server.kill()
        kills += 1
        own_server.start()
        there = counted(place)
        assert all(there[name] <= wanted(records)[name] for name in there)
    thread.join(120)
    assert kills >= 3
    assert failures
    assert failures[0] >= 1
    assert counted(place) == wanted(records)
    assert store.marks([SPOOL]) == [records]  # the connection that it had heals by itself
    place.close()


def test_an_insert_whose_answer_never_came_is_safe_to_repeat(
    own_server: ServerProcess, tmp_path: Path
) -> None:
    from bpfleet.settings import Duration

    place = Place(own_server, None, tmp_path)
    store = place.store(timeout=Duration(0.5))
    store.commit([record(number) for number in range(1, 5)])
    own_server.pause(True)
    with pytest.raises(StoreError, match="did not answer in time") as caught:
        store.commit([record(number) for number in range(5, 13)])
    assert "stored once" in caught.value.remedy
    own_server.pause(False)  # now it does what it had been sent
    deadline = time.monotonic() + 30
    while True:
        try:
            store.commit([record(number) for number in range(5, 13)])
            break
        except StoreError:
            assert time.monotonic() < deadline
    assert counted(place) == wanted(12)
    place.close()


def test_an_agent_that_moves_between_two_aggregators_is_stored_once(place: Place) -> None:
    one, other = place.store(), place.store()
    one.commit([record(number) for number in range(1, 9)])
    assert other.marks([SPOOL]) == [8]
    other.commit([record(number) for number in range(9, 17)])
    # The first one was slow: only now comes what it had taken before the agent left, and its marks are older.
    one.commit([record(number) for number in range(5, 13)])
    assert one.marks([SPOOL]) == other.marks([SPOOL]) == [16]
    assert counted(place) == wanted(16)


def test_an_aggregator_that_dies_between_rows_and_marks_leaves_its_work_to_the_next(place: Place) -> None:
    dying, other = place.store(), place.store()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bpfleet_aggregator.stores.clickhouse.marks.columns_of", lambda marks: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            dying.commit([record(number) for number in range(1, 9)])
    assert counted(place) == wanted(8)
    assert other.marks([SPOOL]) == [0]
    other.commit([record(number) for number in range(1, 13)])
    assert counted(place) == wanted(12)
    assert other.marks([SPOOL]) == [12]


def schemas(number: int) -> Sequence[Any]:
    """Schemas of one map that do not get along."""
    return [
        replace(
            CALLS,
            version=str(version),
            columns=(*CALLS.columns, Column("extra", "value", kind, None, "counter")),
            id="",
        )
        for version, kind in enumerate(["u8", "u16", "u32", "u64"][:number])
    ]


def test_aggregators_that_see_new_schemas_at_once_agree_where_they_go(server_place: Place) -> None:
    server_place.store()
    plans = [schemas(4), list(reversed(schemas(4))), schemas(4)[2:] + schemas(4)[:2]]
    stores = [server_place.store() for _ in plans]
    errors: list[BaseException] = []

    def work(index: int) -> None:
        try:
            for seq, schema in enumerate(plans[index], 1):
                shot = snapshot(schema, [(b"sh", 0, 1, 1, [0] * 6, 0, 9)], seq=seq, seconds=20 + seq)
                agent = replace(shot.origin, agent=f"agent{index}")
                stores[index].commit(received([altered(shot, origin=agent)], first=seq))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(plans))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors
    found = server_place.ask("SELECT relation, version FROM schemas ORDER BY relation")
    names = ["sys_calls_by_comm", *(f"sys_calls_by_comm_v{number}" for number in (2, 3, 4))]
    assert [row["relation"] for row in found] == names
    for row in found:
        (n,) = server_place.ask(f"SELECT count(*) AS n, min(extra) AS low FROM {row['relation']}")
        assert n == {"n": 3, "low": 9}, row


def test_a_store_that_was_opened_before_takes_over_what_another_added(place: Place) -> None:
    old, new = place.store(), place.store()
    old.commit(received([snapshot(CALLS, [(b"sh", 0, 1, 1, [0] * 6, 0)], seq=1, seconds=20)]))
    (grown,) = schemas(1)
    new.commit(received([snapshot(grown, [(b"sh", 0, 1, 1, [0] * 6, 0, 5)], seq=2, seconds=21)], first=2))
    old.commit(received([snapshot(CALLS, [(b"sh", 0, 2, 1, [0] * 6, 0)], seq=3, seconds=22)], first=3))
    old.commit(received([snapshot(grown, [(b"sh", 0, 1, 1, [0] * 6, 0, 6)], seq=4, seconds=23)], first=4))
    found = place.ask("SELECT extra FROM sys_calls_by_comm ORDER BY t1")
    assert [row["extra"] for row in found] == [None, 5, None, 6]


def test_a_database_of_an_older_release_gets_the_column_and_keeps_its_rows(place: Place) -> None:
    upgrade([place])
    for sql, answer in UPGRADED.items():
        assert place.ask(sql) == answer


def test_tables_that_someone_dropped_are_made_again(place: Place) -> None:
    store = place.store()
    store.commit([record(number) for number in range(1, 9)])
    server = place.raw()
    server.run(f"DROP TABLE {place.database}.Rows_sys_calls_by_comm")
    server.run(f"DROP TABLE {place.database}.sys_calls_bss")
    server.close()
    store.commit([record(number) for number in range(9, 17)])
    assert place.ask("SELECT count(*) AS n FROM sys_calls_by_comm") == [{"n": 10}]
    assert place.ask("SELECT count(*) AS n FROM sys_calls_bss") == [{"n": 8}]

"""What records say is lost: every kind is kept, added up, and none of an older store's is forgotten."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from bpfleet.errors import StoreError
from bpfleet.settings import Duration
from bpfleet_aggregator.stores.duckdb import DuckdbSettings, DuckdbStore, open_reader
from bpfleet_aggregator.stores.losses import losses_text
from format_1 import make_format_1
from store_records import COUNTS, EPOCH, LATENCY, SECOND, Agent, context

KEEP = DuckdbSettings(retention=Duration(10**9))
"""The records are older than 30 days."""
ROWS = [("sh", 2)]
Open = Callable[..., DuckdbStore]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    stores: list[DuckdbStore] = []

    def make(settings: DuckdbSettings = KEEP) -> DuckdbStore:
        stores.append(DuckdbStore(settings, context(tmp_path)))
        return stores[-1]

    yield make
    for store in stores:
        store.close()


def ask(folder: Path, sql: str) -> list[tuple[Any, ...]]:
    reader = open_reader(KEEP, context(folder))
    try:
        return [tuple(row.values()) for row in reader.query(sql).read_all().to_pylist()]
    finally:
        reader.close()


def counted(folder: Path) -> dict[str, int]:
    return dict(ask(folder, "SELECT reason, sum(count)::UBIGINT FROM losses GROUP BY reason"))


@pytest.mark.parametrize(
    ("losses", "text"),
    [
        ({}, None),
        ({"failed_insert": 0, "lost": 0}, None),
        ({"lost": 7, "failed_insert": 0, "cut_text": 1}, '{"cut_text":1,"lost":7}'),
        ({"lost": 2**64 - 1}, '{"lost":18446744073709551615}'),
    ],
)
def test_a_snapshot_keeps_every_kind_of_which_there_is_any(
    opened: Open, tmp_path: Path, losses: dict[str, int], text: str | None
) -> None:
    opened().commit([Agent().snapshot(COUNTS, ROWS, 10, losses=losses)])
    assert losses_text(losses) == text
    assert ask(tmp_path, "SELECT losses, failed_insert, truncated FROM snapshots") == [
        (text, losses.get("failed_insert"), None)
    ]
    assert counted(tmp_path) == {reason: count for reason, count in losses.items() if count}


def test_a_count_that_grows_is_added_up_over_loads_and_one_of_a_read_over_reads(
    opened: Open, tmp_path: Path
) -> None:
    store, first = opened(), Agent()
    second = Agent(generation=50 * SECOND, seq=100, spool="spool-2")
    store.commit(
        [
            first.snapshot(COUNTS, ROWS, 10, losses={"no_room": 3, "truncated": 5}),
            first.snapshot(COUNTS, ROWS, 20, losses={"no_room": 4, "truncated": 0}),
            first.snapshot(COUNTS, ROWS, 30, losses={"no_room": 4, "truncated": 1, "worker_restart": 0}),
            first.snapshot(LATENCY, [], 31, losses={"cut_text": 2, "not_decoded": 3}),
            second.snapshot(COUNTS, ROWS, 60, losses={"no_room": 2}),
            second.status(61, [{"name": "execve", "state": "running"}, {"name": "oom", "state": "running"}]),
        ]
    )
    sql = "SELECT map, reason, count, generation, epoch(time)::BIGINT FROM losses ORDER BY ALL"
    at = EPOCH // SECOND
    assert ask(tmp_path, sql) == [
        ("counts", "no_room", 2, 50 * SECOND, at + 60),
        ("counts", "no_room", 4, 2 * SECOND, at + 20),
        ("counts", "truncated", 6, 2 * SECOND, at + 30),
        ("latency", "cut_text", 2, 2 * SECOND, at + 31),
        ("latency", "not_decoded", 3, 2 * SECOND, at + 31),
    ]
    assert ask(tmp_path, "SELECT losses, lost FROM agents") == [(17, 0)]
    assert sorted(ask(tmp_path, "SELECT collector, losses FROM collectors")) == [("execve", 12), ("oom", 0)]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
@pytest.mark.parametrize("how", ["at once", "after a later read", "in two partitions"])
def test_a_read_of_parts_is_counted_once(
    opened: Open, tmp_path: Path, order: tuple[int, ...], how: str
) -> None:
    store, agent = opened(), Agent()
    of_read = [
        agent.snapshot(COUNTS, ROWS, 10, part=part, parts=3, entries=5, losses={"truncated": 2, "lost": 4})
        for part in range(3)
    ]
    if how == "after a later read":
        store.commit([Agent(seq=9, spool="spool-2").snapshot(COUNTS, ROWS, 20)])
    # Of a spool of its own each, so that any order is taken.
    parts = [altered_spool(of_read[part], f"spool-of-{part}") for part in order]
    store.commit(parts[:2])
    if how == "in two partitions":
        store._begin()
    store.commit(parts[2:])
    for _ in range(3):
        assert counted(tmp_path) == {"truncated": 2, "lost": 4}
        store._begin()
        store.maintain()


def altered_spool(one: Any, spool: str) -> Any:
    return type(one)(one.agent, spool, 1, one.record, one.size, one.at)


def test_whatever_an_agent_says_questions_have_an_answer(opened: Open, tmp_path: Path) -> None:
    store, agent = opened(), Agent()
    odd = {'a "b" \\': 2**64 - 1, '":9,"': 1, "é\n\0": 2, "": 3, "{}": 4, "lost": 5}
    store.commit([agent.snapshot(COUNTS, ROWS, at, losses={**odd, "truncated": 2**64 - 1}) for at in (1, 2)])
    most = 2**64 - 1
    for _ in range(2):
        found = dict(ask(tmp_path, "SELECT reason, count FROM losses"))
        assert found == {
            'a \\"b\\" \\\\': most,
            '\\":9,\\"': 1,
            "é\\n\\u0000": 2,
            "": 3,
            "{}": 4,
            "lost": 5,
            "truncated": most,
        }
        assert ask(tmp_path, "SELECT losses FROM agents") == [(most,)]
        store._begin()


# ---- a store of an older release


def of_format_1(folder: Path, agent: Agent) -> None:
    """Three partitions, two of them summed up; the last may go on."""
    store = DuckdbStore(KEEP, context(folder))
    for at in (10, 20, 30):
        losses = {"failed_insert": at, "truncated": 2, "lost": 7}
        store.commit([agent.snapshot(COUNTS, [("sh", at)], at, losses=losses), agent.status(at)])
        if at < 30:
            store._begin()
    store.close()
    make_format_1(folder)


OLD = [
    (10, '{"failed_insert":10,"truncated":2}', 10, 2),
    (20, '{"failed_insert":20,"truncated":2}', 20, 2),
    (30, '{"failed_insert":30,"truncated":2}', 30, 2),
]
SHOTS = "SELECT t1 // 1000000000, losses, failed_insert, truncated FROM snapshots ORDER BY t1"


def test_a_store_of_format_1_is_read_without_an_aggregator(tmp_path: Path) -> None:
    of_format_1(tmp_path, Agent())
    assert ask(tmp_path, SHOTS) == OLD
    assert counted(tmp_path) == {"failed_insert": 30, "truncated": 6}
    assert ask(tmp_path, "SELECT records, losses FROM agents") == [(6, 36)]
    assert ask(tmp_path, "SELECT count FROM execve_counts ORDER BY t1") == [(10,), (20,), (30,)]


def test_a_store_of_format_1_goes_on_with_all_that_is_in_it(opened: Open, tmp_path: Path) -> None:
    agent = Agent()
    of_format_1(tmp_path, agent)
    store = opened()
    assert store.marks([(agent.name, agent.spool)]) == [6]
    store.commit(agent.received)  # all of it again: it is stored
    new = agent.snapshot(COUNTS, [("sh", 45)], 40, losses={"failed_insert": 30, "lost": 7, "no_room": 1})
    store.commit([new])
    for _ in range(5):
        assert ask(tmp_path, SHOTS) == [
            *OLD,
            (40, '{"failed_insert":30,"lost":7,"no_room":1}', 30, None),
        ]
        assert counted(tmp_path) == {"failed_insert": 30, "truncated": 6, "lost": 7, "no_room": 1}
        assert ask(tmp_path, "SELECT records, losses FROM agents") == [(7, 44)]
        assert ask(tmp_path, "SELECT losses FROM collectors") == [(44,)]
        store.maintain()
    assert all(one.is_summed_up for one in store._partitions.all[:-1])
    # A rate over the change: the read before is in a file of format 1.
    assert ask(tmp_path, "SELECT since, count FROM execve_counts_rate ORDER BY t1 DESC LIMIT 1") == [
        ("snapshot", 15)
    ]
    store.close()
    opened()
    assert len(ask(tmp_path, SHOTS)) == 4, "opened again"


def test_a_writer_killed_right_after_the_upgrade_has_lost_nothing(opened: Open, tmp_path: Path) -> None:
    agent = Agent()
    of_format_1(tmp_path, agent)
    opened().close()
    newest = sorted((tmp_path / "duckdb").glob("*.duckdb"))[-1]
    newest.unlink()  # as if it had not come to begin it
    store = opened()
    store.commit([agent.snapshot(COUNTS, ROWS, 40, losses={"no_room": 1})])
    assert counted(tmp_path) == {"failed_insert": 30, "truncated": 6, "no_room": 1}
    assert {one.form for one in store._partitions.all} == {1, 2}


def test_partitions_of_format_1_go_by_retention(opened: Open, tmp_path: Path) -> None:
    agent = Agent()
    of_format_1(tmp_path, agent)
    store = opened(DuckdbSettings(retention=Duration(0.001)))
    store.maintain()
    store.commit([agent.snapshot(COUNTS, ROWS, 40, losses={"no_room": 1})])
    assert [one.form for one in store._partitions.all] == [2]
    assert counted(tmp_path) == {"no_room": 1}


def test_a_store_of_a_newer_release_is_left_alone(tmp_path: Path) -> None:
    DuckdbStore(KEEP, context(tmp_path)).close()
    (path,) = (tmp_path / "duckdb").glob("*.duckdb")
    database = duckdb.connect(str(path))
    database.execute("UPDATE partition SET format = 3")
    database.close()
    with pytest.raises(StoreError, match="of format 3, this release writes 2"):
        DuckdbStore(KEEP, context(tmp_path))
    assert path.exists()

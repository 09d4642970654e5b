"""`agents`, `collectors`, `losses` come from summaries of the partitions, and are what the records say."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace as altered

from bpfleet.settings import Duration
from bpfleet.stores import Received
from bpfleet.wire import Gap, Origin, Snapshot, Status
from bpfleet_aggregator.stores.duckdb import DuckdbSettings, DuckdbStore, open_reader
from bpfleet_aggregator.stores.duckdb.tables import SUMMARIES
from format_1 import KINDS as KEPT
from format_1 import make_format_1
from store_records import COUNTS, EPOCH, SECOND, Agent, context

KEEP = DuckdbSettings(retention=Duration(10**9))


def ask(folder: Path, sql: str) -> list[dict[str, Any]]:
    reader = open_reader(KEEP, context(folder))
    try:
        return reader.query(sql).read_all().to_pylist()
    finally:
        reader.close()


def micros(moment: Any) -> int:
    return int(moment.timestamp() * 10**6 + 0.5)


# ---- what the records say, worked out without the store


def order(one: Received) -> tuple[int, int, str]:
    return one.at // 1000, one.seq, one.spool


def agents_of(stored: Sequence[Received]) -> dict[str, tuple[Any, ...]]:
    found = {}
    for agent in {one.agent for one in stored}:
        records = sorted((one for one in stored if one.agent == agent), key=order)
        last = records[-1].record.origin
        timed = [one for one in records if not isinstance(one.record, Gap)]
        clocks = [(one.at // 1000, (one.record.t1 + one.record.wall_offset) // 1000) for one in timed]  # type: ignore[union-attr]
        gaps = {
            (g.origin, g.first, g.last, g.count, g.reason, g.sink)
            for g in (one.record for one in records)
            if isinstance(g, Gap)
        }
        body = next((one.record.body for one in reversed(records) if isinstance(one.record, Status)), {})
        software = body.get("software", {})
        found[agent] = (
            last.host,
            last.boot,
            last.run,
            records[0].at // 1000,
            records[-1].at // 1000,
            (max(clocks)[0] - max(clocks)[1]) / 1e6 if clocks else None,
            len(records),
            len(gaps),
            sum(gap[3] for gap in gaps),
            software.get("version"),
            software.get("kernel"),
            sum(count for key, (count, _) in losses_of(stored).items() if key[0] == agent),
        )
    return found


def losses_of(stored: Sequence[Received]) -> dict[tuple[Any, ...], tuple[int, int]]:
    """By agent, boot and reason: how many, and when the count last grew (Unix time, µs)."""
    found: dict[tuple[Any, ...], tuple[int, int]] = {}
    shots = [one.record for one in stored if isinstance(one.record, Snapshot)]
    for shot in sorted(shots, key=lambda one: one.t1 + one.wall_offset):
        moment = (shot.t1 + shot.wall_offset) // 1000
        for reason, count in shot.losses.items():
            key = shot.origin.agent, shot.origin.boot, reason
            before, _ = found.get(key, (0, 0))
            if reason == "truncated" and count:
                found[key] = before + count, moment
            elif count > before:
                found[key] = count, moment
    return found


def collectors_of(stored: Sequence[Received]) -> list[tuple[Any, ...]]:
    found = []
    for agent in {one.agent for one in stored}:
        told = [one for one in stored if one.agent == agent and isinstance(one.record, Status)]
        if told:
            last = max(told, key=order)
            found += [
                (
                    agent,
                    last.record.origin.host,
                    one["name"],
                    one["state"],
                    last.at // 1000,
                    sum(
                        count
                        for key, (count, _) in losses_of(stored).items()
                        if key[0] == agent and one["name"] == "execve"
                    ),
                )
                for one in last.record.body["collectors"]  # type: ignore[union-attr]
            ]
    return sorted(found)


def as_stored(folder: Path) -> tuple[Any, ...]:
    agents = {
        one["agent"]: (
            one["host"],
            one["boot"],
            one["run"],
            micros(one["first_seen"]),
            micros(one["last_seen"]),
            one["clock_offset_s"],
            one["records"],
            one["gaps"],
            one["lost"],
            one["version"],
            one["kernel"],
            one["losses"],
        )
        for one in ask(folder, "SELECT * FROM agents")
    }
    collectors = [
        (
            one["agent"],
            one["host"],
            one["collector"],
            one["state"],
            micros(one["last_seen"]),
            one["losses"],
        )
        for one in ask(folder, "SELECT * FROM collectors")
    ]
    losses = {
        (one["agent"], one["boot"], one["reason"]): (one["count"], micros(one["time"]))
        for one in ask(folder, "SELECT * FROM losses")
    }
    return agents, sorted(collectors), losses


# ---- any records in any partitions

ORIGINS = [
    Origin(agent, host, boot, run)
    for agent in ("a1", "a2")
    for host, boot, run in (("h1", "b1", 1), ("h1", "b2", 2), ("h2", "b2", 3))
]
BODIES = [
    {"software": {"version": "1", "kernel": "6.1"}, "labels": {"rack": "7"}, "collectors": []},
    {"software": {"version": "2"}, "collectors": [{"name": "execve", "state": "running"}]},
    {
        "collectors": [{"name": "execve", "state": "load_error"}, {"name": "dnslat", "state": "running"}],
        "labels": {},
    },
]
LOSSES = st.fixed_dictionaries(
    {}, optional={name: st.integers(0, 3) for name in ("failed_insert", "lost", "truncated")}
)
KINDS = st.one_of(
    st.tuples(st.just("snapshot"), st.tuples(st.integers(-3, 3), LOSSES)),
    st.tuples(st.just("gap"), st.integers(1, 2)),
    st.tuples(st.just("status"), st.integers(0, len(BODIES) - 1)),
)
RECORDS = st.tuples(
    st.sampled_from(ORIGINS), st.sampled_from(["s1", "s2"]), KINDS, st.integers(0, 4), st.integers(0, 2)
)
STEPS = st.lists(st.one_of(RECORDS, st.sampled_from(["close", "reopen", "forget", "older"])), max_size=25)


def made(step: Any, seq: int) -> Received:
    origin, spool, (kind, value), at, t1 = step
    moment, received = t1 * SECOND, EPOCH + at * SECOND
    record: Snapshot | Gap | Status
    if kind == "snapshot":
        agent = Agent(origin.agent, origin.host, origin.boot, origin.run)
        record = agent.snapshot(COUNTS, [("sh", 1)], t1).record  # type: ignore[assignment]
        offset, losses = value
        record = altered(record, seq=seq, wall_offset=EPOCH + offset * 1000_000, losses=losses)
    elif kind == "gap":
        record = Gap(
            origin=origin,
            seq=9,
            first=value,
            last=value + 2,
            count=3,
            reason="queue_full",
            sink="z",
            t1=moment,
        )
    else:
        body = dict(BODIES[value])
        record = Status(origin=origin, seq=seq, t1=moment, wall_offset=EPOCH, body=body)
    return Received(origin.agent, spool, seq, record, 100, received)


@settings(max_examples=20, deadline=None)
@given(STEPS)
def test_answers_are_what_the_records_say_however_they_lie_in_partitions(steps: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = DuckdbStore(KEEP, context(folder))
        stored: list[Received] = []
        try:
            for step in steps:
                if step == "close":
                    store._begin()
                elif step in ("reopen", "forget", "older"):
                    store.close()
                    if step == "forget":
                        forget_summaries(folder)
                    if step == "older":
                        make_format_1(folder)
                        stored = [as_kept_by_format_1(one) for one in stored]
                    store = DuckdbStore(KEEP, context(folder))
                else:
                    stored.append(made(step, len(stored) + 1))
                    store.commit([stored[-1]])
            wanted = agents_of(stored), collectors_of(stored), losses_of(stored)
            assert as_stored(folder) == wanted
            # With all summaries that were missing, and with none but those of closed ones.
            for _ in range(len(steps)):
                store.maintain()
            assert all(one.is_summed_up for one in store._partitions.all[:-1])
            assert as_stored(folder) == wanted
        finally:
            store.close()
        assert as_stored(folder) == wanted, "read without an aggregator"


def as_kept_by_format_1(one: Received) -> Received:
    if not isinstance(one.record, Snapshot):
        return one
    losses = {kind: count for kind, count in one.record.losses.items() if kind in KEPT}
    return altered(one, record=altered(one.record, losses=losses))


def forget_summaries(folder: Path) -> None:
    """As a writer leaves a partition that was killed just then, or one of an older release."""
    for path in (folder / "duckdb").glob("*.duckdb"):
        database = duckdb.connect(str(path))
        for table in SUMMARIES:
            database.execute(f"DROP TABLE IF EXISTS {table}")
        database.close()


# ---- what is read for it


def plan(folder: Path, relation: str) -> str:
    rows = ask(folder, f"EXPLAIN SELECT * FROM {relation}")
    return "\n".join(str(value) for row in rows for value in row.values())


def test_records_of_closed_partitions_are_not_read(tmp_path: Path) -> None:
    store, agent = DuckdbStore(KEEP, context(tmp_path)), Agent()
    try:
        for at in range(1, 4):
            store.commit([agent.snapshot(COUNTS, [("sh", at)], at, losses={"lost": at}), agent.status(at)])
            store._begin()
        for relation in ("agents", "collectors", "losses"):
            shown = plan(tmp_path, relation)
            for number in (1, 2, 3):
                assert f"p{number}.main.snapshots" not in shown
                assert f"p{number}.main.statuses" not in shown
                assert f"p{number}.main.{relation}_1" in shown
        assert "p4.main.snapshots" in plan(tmp_path, "agents"), "but what is not summed up yet is"
    finally:
        store.close()


def test_a_missing_summary_is_made_again_one_at_a_time(tmp_path: Path) -> None:
    store, agent = DuckdbStore(KEEP, context(tmp_path)), Agent()
    for at in range(1, 4):
        store.commit([agent.snapshot(COUNTS, [("sh", at)], at)])
        store._begin()
    store.close()
    forget_summaries(tmp_path)
    store = DuckdbStore(KEEP, context(tmp_path))
    try:
        before = ask(tmp_path, "SELECT * FROM agents")
        for made_so_far in range(4):
            assert sum(one.is_summed_up for one in store._partitions.all) == made_so_far
            assert ask(tmp_path, "SELECT * FROM agents") == before
            store.maintain()
        assert "snapshots" not in plan(tmp_path, "agents").replace("p4.main.snapshots", "")
    finally:
        store.close()


def test_a_partition_that_is_summed_up_takes_no_more_records(tmp_path: Path) -> None:
    """Where the newest file has gone, the one before must not go on, or its summary would be wrong."""
    store, agent = DuckdbStore(KEEP, context(tmp_path)), Agent()
    store.commit([agent.snapshot(COUNTS, [("sh", 1)], 1)])
    store._begin()
    store.close()
    sorted((tmp_path / "duckdb").glob("*.duckdb"))[-1].unlink()
    store = DuckdbStore(KEEP, context(tmp_path))
    try:
        store.commit([agent.snapshot(COUNTS, [("sh", 2)], 2)])
        assert [one["records"] for one in ask(tmp_path, "SELECT * FROM agents")] == [2]
    finally:
        store.close()

"""The rate relations follow the rules of docs/wire.md: an oracle in plain Python, and made-up histories."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace as altered

from bpfleet.settings import Duration
from bpfleet.stores import Received, StoreReader
from bpfleet.wire import Schema, Snapshot
from bpfleet_aggregator.stores.duckdb import DuckdbSettings, DuckdbStore, open_reader
from store_records import GLOBALS, SECOND, Agent, context, key, value

KEYED = Schema(
    "x",
    "1",
    "m",
    "",
    (
        key("comm", "char", 4),
        key("cpu", "u8"),
        value("n"),
        value("seconds", "s64"),
        value("h", "u32", 3, "histogram"),
    ),
)
KEEP = DuckdbSettings(retention=Duration(10**9))
"""The records are older than 30 days."""
SPARE = replace(KEYED, version="2", columns=KEYED.columns[:3], id="")
"""Another schema of the same map, whose rows are in the same relation."""


# ---- the oracle


@dataclass
class Read:
    """All parts of one read."""

    parts: list[Snapshot]

    @property
    def whole(self) -> bool:
        return all(p.complete for p in self.parts) and {p.part for p in self.parts} == set(
            range(self.parts[0].parts)
        )

    def rows(self) -> Iterator[tuple[Any, dict[str, Any]]]:
        """Key and values; the key is bytes, or the index of the row."""
        at = 0
        for part in sorted(self.parts, key=lambda p: p.part):
            columns = part.schema.columns
            for index in range(part.rows):
                raw = [array[index].tobytes() for array in part.columns]
                keys = tuple(b for c, b in zip(columns, raw, strict=True) if c.part == "key")
                values = {
                    c.name: array[index].tolist()
                    for c, array in zip(columns, part.columns, strict=True)
                    if c.meaning in ("counter", "histogram")
                }
                yield keys or at, values
                at += 1


def expected(records: list[Received]) -> list[tuple[Any, ...]]:
    """(agent, t1, seconds, since, values) of every row, by the rules."""
    streams: dict[Any, dict[Any, Read]] = {}
    for one in records:
        s = one.record
        assert isinstance(s, Snapshot)
        stream = streams.setdefault((one.agent, s.schema.id, s.origin.boot, s.generation), {})
        stream.setdefault((s.t1, s.origin.run, s.seq - s.part), Read([])).parts.append(s)
    found = []
    for (agent, _, _, generation), reads in streams.items():
        earlier: Read | None = None
        for (t1, _, _), read in sorted(reads.items()):
            before = dict(earlier.rows()) if earlier else {}
            seconds = (t1 - (earlier.parts[0].t1 if earlier else generation)) / SECOND
            for which, values in read.rows():
                since, increase = _judge(earlier, before.get(which), values)
                if seconds <= 0:
                    since, increase = "unknown", None
                made = increase or dict.fromkeys(values)
                found.append(
                    (agent, t1, seconds, since, tuple(_plain(made[name]) for name in sorted(values)))
                )
            earlier = read
    return found


def _judge(earlier: Read | None, old: dict[str, Any] | None, now: dict[str, Any]) -> tuple[str, Any]:
    if earlier is None:
        return "load", now
    if old is None:
        return ("new", now) if earlier.whole else ("unknown", None)
    pairs = {name: list(zip(_many(now[name]), _many(old[name]), strict=True)) for name in now}
    if any(a < b for pair in pairs.values() for a, b in pair):
        return "reset", now
    return "snapshot", {
        name: [a - b for a, b in pair] if isinstance(now[name], list) else pair[0][0] - pair[0][1]
        for name, pair in pairs.items()
    }


def _many(number: Any) -> list[Any]:
    return number if isinstance(number, list) else [number]


def _plain(number: Any) -> Any:
    return tuple(number) if isinstance(number, list) else number


def ordered(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return sorted(rows, key=repr)


# ---- histories

NAMES = st.sampled_from([b"sh\0\0", b"sh\0x", b"ls", b"\xff\xfe", b"\xff\xfd", b""])
NUMBERS = st.integers(0, 3) | st.sampled_from([2**63, 2**64 - 1])
SIGNED = st.integers(-2, 3) | st.sampled_from([-(2**63), 2**63 - 1])
ROWS = st.dictionaries(
    st.tuples(NAMES, st.integers(0, 1)),
    st.tuples(NUMBERS, SIGNED, st.lists(st.integers(0, 3), min_size=3, max_size=3)),
    max_size=4,
)


@dataclass(frozen=True)
class Step:
    """One read, and what happens before it."""

    rows: dict[Any, Any]
    happens: str
    pause: int
    complete: bool
    cut: int
    lost: int | None
    agent: int


STEPS = st.builds(
    Step,
    ROWS,
    st.sampled_from(["", "", "", "", "load", "boot", "upgrade"]),
    st.sampled_from([1, 1, 2, 0]),
    st.sampled_from([True, True, False]),
    st.sampled_from([0, 0, 1, 2]),
    st.sampled_from([None, None, None, 0, 1]),
    st.integers(0, 1),
)


def history(steps: list[Step], schema: Schema) -> list[Received]:
    """What an aggregator gets of it."""
    agents = [Agent(f"agent-{i}", f"web-{i}", spool=f"spool-{i}") for i in range(2)]
    schemas, clock = [schema, schema], [10, 10]
    found = []
    for step in steps:
        i, agent = step.agent, agents[step.agent]
        clock[i] += step.pause
        if step.happens:
            agent.generation = clock[i] * SECOND
            clock[i] += 1
        if step.happens == "boot":
            agent.boot, agent.run = agent.boot + "'", clock[i] * SECOND
        if step.happens == "upgrade" and schema is KEYED and found:
            schemas[i] = SPARE if schemas[i] is KEYED else KEYED
        rows = (
            [(*k, *v) for k, v in step.rows.items()]
            if schema is KEYED
            else [(v[0], 7) for v in step.rows.values()]
        )
        rows = [row[: len(schemas[i].columns)] for row in rows]
        pieces = (
            [rows[at : at + step.cut] for at in range(0, len(rows), step.cut)] or [rows]
            if step.cut
            else [rows]
        )
        for part, piece in enumerate(pieces):
            made = agent.snapshot(
                schemas[i],
                piece,
                clock[i],
                part=part,
                parts=len(pieces),
                complete=step.complete,
                entries=len(rows),
            )
            # A keyless map has as many rows in each read; a part that is lost would move none of the others.
            if part != step.lost or schema is GLOBALS:
                found.append(made)
    return found


def rates(reader: StoreReader, relation: str, names: list[str]) -> list[tuple[Any, ...]]:
    sql = f"SELECT agent, t1, seconds, since, {', '.join(names)} FROM {relation}"
    rows = reader.query(sql).read_all().to_pylist()
    return [(*list(row.values())[:4], tuple(_plain(row[name]) for name in names)) for row in rows]


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(STEPS, max_size=12), st.integers(1, 5), st.booleans())
def test_the_rates_of_any_history_are_those_of_the_rules(steps: list[Step], cut: int, restarts: bool) -> None:
    records = history(steps, KEYED)
    with tempfile.TemporaryDirectory() as folder:
        store_all(Path(folder), records, cut, restarts=restarts)
        reader = open_reader(KEEP, context(Path(folder)))
        try:
            if records:
                found = rates(reader, "x_m_rate", ["h", "n", "value_seconds"])
                wanted = [
                    (*row[:4], row[4] if len(row[4]) == 3 else (None, row[4][0], None))
                    for row in expected(records)
                ]
                assert ordered(found) == ordered(wanted)
        finally:
            reader.close()


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(STEPS, min_size=1, max_size=8), st.integers(1, 5))
def test_maps_without_keys_match_by_row(steps: list[Step], cut: int) -> None:
    records = history(steps, GLOBALS)
    with tempfile.TemporaryDirectory() as folder:
        store_all(Path(folder), records, cut)
        reader = open_reader(KEEP, context(Path(folder)))
        try:
            assert ordered(rates(reader, "execve_bss_rate", ["forks"])) == ordered(expected(records))
        finally:
            reader.close()


def store_all(folder: Path, records: list[Received], cut: int, *, restarts: bool = False) -> None:
    """In batches of `cut`; with a restart, or a new partition, after each second one."""
    store = DuckdbStore(KEEP, context(folder))
    try:
        for number, at in enumerate(range(0, len(records), cut)):
            store.commit(records[at : at + cut])
            if restarts and number % 3 == 1:
                store.close()
                store = DuckdbStore(KEEP, context(folder))
            elif restarts and number % 3 == 2:
                store._begin()
    finally:
        store.close()


# ---- what the rules leave open


@pytest.fixture
def agent() -> Agent:
    return Agent()


def test_a_read_that_comes_after_a_later_one_has_no_rate_and_spoils_none(
    tmp_path: Path, agent: Agent
) -> None:
    first, second, third = (agent.snapshot(GLOBALS, [(n, 0)], n) for n in (10, 20, 30))
    other = Agent(spool="spool-2")
    late = altered(other.snapshot(GLOBALS, [(20, 0)], 20), record=second.record)
    store_all(tmp_path, [first, third, late], 1)
    reader = open_reader(KEEP, context(tmp_path))
    try:
        assert ordered(rates(reader, "execve_bss_rate", ["forks"])) == ordered(
            [
                ("agent-1", 10 * SECOND, 8.0, "load", (10,)),
                ("agent-1", 20 * SECOND, 18.0, "unknown", (None,)),
                ("agent-1", 30 * SECOND, 20.0, "snapshot", (20,)),
            ]
        )
    finally:
        reader.close()


def test_the_rate_is_the_increase_over_the_seconds(tmp_path: Path, agent: Agent) -> None:
    store_all(tmp_path, [agent.snapshot(GLOBALS, [(n, 0)], n) for n in (10, 14)], 1)
    reader = open_reader(KEEP, context(tmp_path))
    try:
        sql = "SELECT seconds, forks, forks_per_s FROM execve_bss_rate ORDER BY time"
        assert [tuple(row.values()) for row in reader.query(sql).read_all().to_pylist()] == [
            (8.0, 10, 1.25),
            (4.0, 4, 1.0),
        ]
    finally:
        reader.close()

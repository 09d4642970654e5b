"""What questions see of a ClickHouse store: on Debian's server (18.16) and on the current engine alike."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from msgspec.structs import replace as altered

from bpfleet.errors import StoreError
from bpfleet.wire import Column
from clickhouse_servers import Place
from fleet_records import (
    CALLS,
    GLOBALS,
    KINDS,
    NOW,
    expected_rates,
    gap,
    origin,
    received,
    snapshot,
    status,
    wild_history,
)

ROWS = [(b"sh", 0, 5, 1, [1, 2, 0, 0, 0, 0], -4), (b"ls", 1, 2**63, 0, [0] * 6, 9)]
FIXED = {
    "time": pa.timestamp("us", "UTC"),
    "agent": pa.string(),
    "host": pa.string(),
    "boot": pa.string(),
    "run": pa.uint64(),
    "generation": pa.uint64(),
    "t1": pa.uint64(),
    "seq": pa.uint64(),
    "row": pa.uint32(),
}


def micros(moment: datetime) -> int:
    return round((moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1e6)


def ordered(rows: list[dict[str, Any]]) -> list[str]:
    return sorted(repr(row) for row in rows)


def test_a_relation_has_the_rows_of_its_map_with_names_and_types_of_the_contract(place: Place) -> None:
    place.store().commit(received([snapshot(CALLS, ROWS, seq=1, seconds=20.5)]))
    answer = place.reader().query("SELECT * FROM sys_calls_by_comm ORDER BY row").read_all()
    fields = {"comm": pa.string(), "cpu": pa.uint32(), "calls": pa.uint64(), "errors": pa.uint32()}
    fields |= {"slots": pa.list_(pa.uint64()), "last": pa.int64()}
    assert dict(zip(answer.schema.names, answer.schema.types, strict=True)) == FIXED | fields
    first, second = answer.to_pylist()
    assert micros(first.pop("time")) == (NOW - 1000 * 10**9 + 20_500_000_000) // 1000
    assert first == {
        "agent": "a1",
        "host": "host-a1",
        "boot": "b1",
        "run": 5 * 10**9,
        "generation": 10 * 10**9,
        "t1": 20_500_000_000,
        "seq": 1,
        "row": 0,
        "comm": "sh",
        "cpu": 0,
        "calls": 5,
        "errors": 1,
        "slots": [1, 2, 0, 0, 0, 0],
        "last": -4,
    }
    assert (second["row"], second["calls"], second["slots"]) == (1, 2**63, [0] * 6)


def test_every_type_comes_back_as_it_went_in(place: Place) -> None:
    columns = []
    for column in KINDS.columns:
        raw = np.arange(1, 1 + 2 * column.dtype.itemsize, dtype=np.uint8)
        if column.type == "char":
            raw[:] = list(b"\xffehi\0x"[: len(raw)])
        columns.append(np.frombuffer(raw.tobytes(), column.dtype))
    shot = altered(snapshot(GLOBALS, [], seq=1, seconds=20), schema=KINDS, rows=2, columns=columns, entries=2)
    place.store().commit(received([shot]))
    found = place.ask("SELECT * FROM kinds_all ORDER BY row")
    wanted = shot.to_rows()
    for row, expected in zip(found, wanted, strict=True):
        for name, value in expected.items():
            assert row[name.replace(".", "_")] == value, name


def test_bools_are_bools_where_the_server_has_them(place: Place) -> None:
    place.store().commit(received([altered(snapshot(GLOBALS, [(1, 0.5)], seq=1, seconds=20))]))
    (row,) = place.ask("SELECT complete FROM snapshots WHERE complete")
    assert row["complete"] is True if place.is_modern else row["complete"] == 1


def test_parts_of_a_snapshot_count_their_rows_on(place: Place) -> None:
    rows = [(index, 0.5) for index in range(7)]
    parts = [
        snapshot(GLOBALS, rows[i * 3 : i * 3 + 3], seq=9 + i, seconds=20, part=i, parts=3, entries=9)
        for i in range(3)
    ]
    parts[2] = altered(parts[2], losses={"truncated": 2})
    place.store().commit(received([parts[2], parts[0], parts[1]]))
    found = place.ask("SELECT row, ticks FROM sys_calls_bss ORDER BY row")
    assert found == [{"row": index, "ticks": index} for index in range(7)]


def test_a_field_that_a_later_schema_adds_is_null_before(place: Place) -> None:
    column = Column("more", "value", "u64", None, "counter")
    grown = replace(
        CALLS, version="2", columns=(*CALLS.columns, column, replace(column, name="h", count=2)), id=""
    )
    less = replace(CALLS, version="3", columns=CALLS.columns[:3], id="")
    store = place.store()
    store.commit(received([snapshot(CALLS, ROWS[:1], seq=1, seconds=20)]))
    store.commit(
        received(
            [
                snapshot(grown, [(*ROWS[0], 0, [0, 1])], seq=2, seconds=21),
                snapshot(less, [ROWS[0][:3]], seq=3, seconds=22),
            ],
            first=2,
        )
    )
    found = place.ask("SELECT seq, errors, last, more, h FROM sys_calls_by_comm ORDER BY seq")
    assert [tuple(row.values()) for row in found] == [
        (1, 1, -4, None, None),
        (2, 1, -4, 0, [0, 1]),
        (3, None, None, None, None),
    ]
    rates = place.ask("SELECT t1, since, calls, errors, more, h FROM sys_calls_by_comm_rate ORDER BY t1")
    assert [tuple(row.values())[1:] for row in rates] == [
        ("load", 5, 1, None, None),
        ("load", 5, 1, 0, [0, 1]),
        ("load", 5, None, None, None),
    ]


def test_a_field_of_another_type_makes_another_relation(place: Place) -> None:
    changed = tuple(replace(c, count=7) if c.name == "slots" else c for c in CALLS.columns)
    other = replace(CALLS, version="2", columns=changed, id="")
    rows = [(b"sh", 0, 5, 1, [0] * 7, -4)]
    place.store().commit(
        received([snapshot(CALLS, ROWS, seq=1, seconds=20), snapshot(other, rows, seq=2, seconds=21)])
    )
    assert place.ask("SELECT count(*) AS n FROM sys_calls_by_comm") == [{"n": 2}]
    assert place.ask("SELECT slots FROM sys_calls_by_comm_v2") == [{"slots": [0] * 7}]
    found = place.ask("SELECT relation, version FROM schemas ORDER BY version")
    assert [row["relation"] for row in found] == ["sys_calls_by_comm", "sys_calls_by_comm_v2"]
    assert place.ask("SELECT relation FROM snapshots ORDER BY seq") == [
        {"relation": r["relation"]} for r in found
    ]


@pytest.mark.parametrize("seed", range(6))
def test_rates_are_those_of_the_rule(place: Place, seed: int) -> None:
    history = wild_history(seed)
    assert len({rate["since"] for rate in expected_rates(history)}) >= 4
    records = received(history)
    store = place.store()
    store.commit(records[::2])  # in another order than they were read in
    store.commit(records[1::2])
    found = place.ask("SELECT * FROM sys_calls_by_comm_rate")
    for row in found:
        row["time"] = micros(row["time"])
        assert row.pop("agent") == "a1"
        assert row.pop("host") == "host-a1"
    assert ordered(found) == ordered(expected_rates(history))


def test_rates_of_a_map_without_keys_go_by_row(place: Place) -> None:
    shots = [
        snapshot(GLOBALS, [(10, 0.5), (7, 1.0)], seq=1, seconds=20),
        snapshot(GLOBALS, [(25, 0.75), (7, 0.5)], seq=2, seconds=25),
    ]
    place.store().commit(received(shots))
    found = place.ask(
        "SELECT t1, since, seconds, row, ticks, ticks_per_s, busy FROM sys_calls_bss_rate ORDER BY t1, row"
    )
    assert [tuple(row.values())[1:] for row in found] == [
        ("load", 10.0, 0, 10, 1.0, 0.5),
        ("load", 10.0, 1, 7, 0.7, 1.0),
        ("snapshot", 5.0, 0, 15, 3.0, 0.25),
        ("reset", 5.0, 1, 7, 1.4, 0.5),
    ]


def test_agents_tell_of_the_latest_record_and_of_loss(place: Place) -> None:
    records = [
        snapshot(GLOBALS, [(1, 0.5)], seq=1, seconds=20, origin=origin(boot="b0")),
        status(2, 30),
        gap(3, 5),
        gap(8, 9),
    ]
    store = place.store()
    store.commit(received(records))
    store.commit(received([gap(3, 5, seq=99, t1=5)], first=5))  # told again: one loss
    store.commit(received([snapshot(GLOBALS, [], seq=1, seconds=21, origin=origin("a2"))]))
    first, second = place.ask("SELECT * FROM agents ORDER BY agent")
    assert micros(first.pop("first_seen")) == NOW // 1000 + 1
    assert micros(first.pop("last_seen")) == NOW // 1000 + 5
    assert first.pop("clock_offset_s") == pytest.approx(970 + 2e-6, abs=1e-6)
    assert first == {
        "agent": "a1",
        "host": "host-a1",
        "boot": "b1",
        "run": 5 * 10**9,
        "version": "0.1.0",
        "kernel": "6.1",
        "labels": '{"rack":"é\'\\\\"}',
        "records": 5,
        "gaps": 2,
        "lost": 5,
        "losses": 3,
    }
    assert (second["agent"], second["version"], second["labels"], second["lost"]) == ("a2", None, "{}", 0)


def test_collectors_are_those_of_each_agents_latest_status(place: Place) -> None:
    store = place.store()
    store.commit(received([status(1, 20), status(2, 30, collectors=[{"name": "good", "state": "disabled"}])]))
    store.commit(received([status(1, 20, origin("a2"))]))
    found = place.ask("SELECT * FROM collectors ORDER BY agent, collector")
    names = [(row["agent"], row["collector"], row["state"], row["error"], row["remedy"]) for row in found]
    assert names == [
        ("a1", "good", "disabled", "", ""),
        ("a2", "bad", "load_error", "no such map", "load it"),
        ("a2", "good", "running", "", ""),
    ]
    assert [(row["generation"], row["interval_s"]) for row in found] == [
        (None, None),
        (None, None),
        (7, 10.0),
    ]


def test_a_histograms_quantile_lies_within_its_slot(place: Place) -> None:
    place.store()
    wanted = {
        "histogram_quantile([1, 2, 3], 0.5)": 4.0,
        "histogram_quantile([4, 0, 0], 0.25)": 0.5,
        "histogram_quantile([0, 0, 8], 1)": 8.0,
        "histogram_quantile([0, 0, 8], 0)": 4.0,
        "histogram_quantile([0, 0], 0.5)": None,
        "histogram_quantile([1, 0], 1.1)": None,
        "HISTOGRAM_QUANTILE (arrayMap(x -> x + 1, [0, 0, 1]), 1 - 0.5)": 4.0,
        "'histogram_quantile(a)'": "histogram_quantile(a)",
    }
    columns = ", ".join(f"{sql} AS c{index}" for index, sql in enumerate(wanted))
    (row,) = place.ask(f"SELECT {columns}")
    assert list(row.values()) == list(wanted.values())


def test_a_quantile_of_a_relations_histogram(place: Place) -> None:
    place.store().commit(received([snapshot(CALLS, ROWS, seq=1, seconds=20)]))
    found = place.ask(
        "SELECT comm, histogram_quantile(slots, 0.5) AS p50 FROM sys_calls_by_comm ORDER BY comm"
    )
    assert found == [{"comm": "ls", "p50": None}, {"comm": "sh", "p50": 2.5}]
    assert place.ask("SELECT histogram_quantile(histogram_sum(slots), 0.5) AS p FROM sys_calls_by_comm") == [
        {"p": 2.5}
    ]


def test_parameters_are_values_whatever_stands_in_them(place: Place) -> None:
    place.store().commit(received([snapshot(CALLS, ROWS, seq=1, seconds=20)]))
    nasty = "a'b\\'c\"?`\n -- é"
    moment = datetime.fromtimestamp(NOW / 1e9 - 979, UTC)
    (row,) = place.ask(
        "SELECT ? AS a, ? AS b, ? AS c, ? AS d, '?' AS e, ? AS f, /* ? */ count(*) AS n -- ?\n"
        "FROM sys_calls_by_comm WHERE time < ? AND time >= ?",
        [nasty, 2**64 - 1, -1.5, None, [1, 2], moment, datetime.fromtimestamp(NOW / 1e9 - 981, UTC)],
    )
    assert row == {"a": nasty, "b": 2**64 - 1, "c": -1.5, "d": None, "e": "?", "f": [1, 2], "n": 2}


def test_too_few_or_too_many_parameters_are_told(place: Place) -> None:
    place.store()
    for parameters in ([1], [1, 2, 3]):
        with pytest.raises(StoreError, match=r"2 \?|more \?"):
            place.ask("SELECT ?, ?", parameters)
    with pytest.raises(StoreError, match=r"a parameter is a dict"):
        place.ask("SELECT ?", [{}])


def test_an_answer_without_rows_has_its_columns(place: Place) -> None:
    place.store().commit(received([snapshot(CALLS, ROWS, seq=1, seconds=20)]))
    reader = place.reader()
    answer = reader.query("SELECT * FROM sys_calls_by_comm WHERE calls = 77").read_all()
    assert answer.num_rows == 0
    assert answer.schema.field("slots").type == pa.list_(pa.uint64())
    assert answer.schema.field("time").type == pa.timestamp("us", "UTC")
    reader.query("SELECT * FROM sys_calls_by_comm_rate WHERE 1 = 0").read_all()


def test_all_sorts_of_answers_become_arrow(place: Place) -> None:
    place.store()
    (row,) = place.ask(
        "SELECT toDate('2026-01-02') AS d, toDateTime('2026-01-02 03:04:05', 'UTC') AS t, tuple(1, 'x',"
        " [2]) AS s,"
        " NULL AS n, toUUID('61f0c404-5cb3-11e7-907b-a6006ad3dba0') AS u, toFixedString('ab', 4) AS f,"
        " CAST('b' AS Enum8('a' = 1, 'b' = -2)) AS e, [[1], [], [2, 3]] AS l, CAST(NULL AS"
        " Nullable(String)) AS z,"
        " 1 / 0 AS i, concat('a', unhex('ff')) AS x"
    )
    assert row["d"].isoformat() == "2026-01-02"
    assert row["t"] == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert row["s"] == {"1": 1, "2": "x", "3": [2]}
    assert (row["n"], row["u"], row["f"]) == (None, "61f0c404-5cb3-11e7-907b-a6006ad3dba0", "ab")
    assert (row["e"], row["z"], row["x"]) == ("b", None, "a\ufffd")
    assert row["l"] == [[1], None, [2, 3]]  # an empty array is what stands for NULL
    assert math.isinf(row["i"])


def test_a_type_that_can_not_be_shown_is_told_with_a_way_out(place: Place) -> None:
    place.store()
    with pytest.raises(StoreError, match=r"Decimal") as caught:
        place.ask("SELECT toDecimal32(1, 2) AS x")
    assert "toString(COLUMN)" in str(caught.value)


def test_a_wrong_question_is_answered_with_the_engines_words(place: Place) -> None:
    place.store()
    with pytest.raises(StoreError, match=r"nowhere") as caught:
        place.ask("SELECT * FROM nowhere")
    assert "Stack trace" not in str(caught.value)
    with pytest.raises(StoreError, match=r"(?i)syntax"):
        place.ask("SELEC 1")


def test_a_reader_can_not_write(server_place: Place) -> None:
    server_place.store().commit(received([snapshot(CALLS, ROWS, seq=1, seconds=20)]))
    with pytest.raises(StoreError, match=r"readonly"):
        server_place.ask("DROP TABLE Snapshots")
    assert server_place.ask("SELECT count(*) AS n FROM snapshots") == [{"n": 1}]


def test_a_large_answer_comes_block_by_block_and_can_be_ended_early(server_place: Place) -> None:
    server_place.store()
    reader = server_place.reader()
    answer = reader.query("SELECT number, toString(number) AS word FROM system.numbers LIMIT 200000000")
    first = answer.read_next_batch()
    assert first.column("word").to_pylist()[:2] == ["0", "1"]
    answer.close()
    reader.close()
    assert server_place.ask("SELECT 1 AS x") == [{"x": 1}]


def test_an_error_in_the_middle_of_an_answer_is_raised(server_place: Place) -> None:
    server_place.store()
    with pytest.raises(StoreError, match=r"throwIf"):
        server_place.ask(
            "SELECT toUInt8(1) / throwIf(number = 3000000) AS x FROM system.numbers LIMIT 4000000"
        )
    assert server_place.ask("SELECT 1 AS x") == [{"x": 1}]

"""From schemas to relations, their names and columns; from columns of bytes to Arrow."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpfleet.errors import StoreError
from bpfleet.wire import Column, Schema
from bpfleet_aggregator.stores.arrow_columns import arrow_column, arrow_type, column_bytes, key_rest
from bpfleet_aggregator.stores.placing import RowStarts, micros
from bpfleet_aggregator.stores.relations import Recorded, Relations, identifier
from sample_records import snapshot


def schema(collector: str, map_name: str, *columns: Column, version: str = "1") -> Schema:
    return Schema(collector, version, map_name, "", columns or (counter("count"),))


def counter(name: str, kind: str = "u64", count: int | None = None) -> Column:
    return Column(name, "value", kind, count, "counter")


def key(name: str, kind: str = "u32", count: int | None = None) -> Column:
    return Column(name, "key", kind, count, "label")


# ---- names


@pytest.mark.parametrize(
    ("collector", "map_name", "name"),
    [
        ("execve", "counts", "execve_counts"),
        ("x", ".bss", "x_bss"),
        ("My-Collector", "a.b  c", "my_collector_a_b_c"),
        ("x", "Grüße", "x_gr_e"),
        ("9p", "ops", "_9p_ops"),
        ("…", "…", "map"),
        ("…", "agents", "agents_2"),
        ("c" * 200, "m", "c" * 100),
    ],
)
def test_a_relation_is_named_after_collector_and_map(collector: str, map_name: str, name: str) -> None:
    assert Relations().place(schema(collector, map_name)).relation.name == name


def test_two_maps_with_one_name_are_told_apart() -> None:
    relations = Relations()
    names = [relations.place(schema("x", name)).relation.name for name in ("a.b", "a-b", "a_b")]
    assert names == ["x_a_b", "x_a_b_2", "x_a_b_3"]


def test_no_map_takes_the_name_of_anothers_rate() -> None:
    relations = Relations()
    names = [relations.place(schema("x", name)).relation.name for name in ("a", "a_rate", "b_rate", "b")]
    assert names == ["x_a", "x_a_rate_2", "x_b_rate", "x_b_2"]


def test_a_field_with_a_fixed_name_has_its_part_in_front_and_dots_become_underscores() -> None:
    made = Relations().place(
        schema("x", "m", key("time"), key("peer.port"), counter("peer_port"), counter("Row"))
    )
    assert [field.name for field in made.fields] == ["key_time", "peer_port", "peer_port_2", "value_row"]


def test_the_rate_relation_has_keys_increases_and_rates_under_names_that_differ() -> None:
    hist = Column("hist", "value", "u64", 32, "histogram")
    gauge = Column("now", "value", "u64", None, "gauge")
    made = Relations().place(schema("x", "m", key("seconds"), counter("n"), counter("n_per_s"), hist, gauge))
    keys, labels, growing = made.relation.rate_columns()
    assert labels == {}
    assert list(keys) == ["key_seconds"]
    assert [(one.increase, one.per_second) for one in growing] == [
        ("n", "value_n_per_s"),
        ("n_per_s", "n_per_s_per_s"),
        ("hist", None),
    ]


# ---- schemas that change


def test_events_have_no_rates_whatever_their_columns_say() -> None:
    number = Column("event_number", "key", "u64", None, "event")
    placed = Relations().place(schema("opens", "failed", number, counter("took")))
    assert not placed.relation.has_rate
    assert [field.name for field in placed.fields] == ["event_number", "took"]


def test_a_field_that_is_added_is_a_column_that_is_added() -> None:
    relations = Relations()
    relations.place(schema("x", "m", counter("a")))
    made = relations.place(schema("x", "m", counter("a"), counter("b"), version="2"))
    assert (made.relation.name, made.is_new) == ("x_m", False)
    assert [field.name for field in made.relation.fields] == ["a", "b"]
    assert [field.name for field in made.added] == ["b"]


def test_a_field_that_goes_leaves_its_column() -> None:
    relations = Relations()
    relations.place(schema("x", "m", counter("a"), counter("b")))
    made = relations.place(schema("x", "m", counter("b"), version="2"))
    assert [field.name for field in made.relation.fields] == ["a", "b"]
    assert [field.name for field in made.fields] == ["b"]


@pytest.mark.parametrize(
    "other",
    [
        counter("a", "u32"),
        counter("a", "u64", 4),
        key("a", "u64"),
        Column("a", "value", "u64", None, "gauge"),
    ],
)
def test_a_field_of_another_type_makes_a_new_relation(other: Column) -> None:
    relations = Relations()
    first = schema("x", "m", counter("a"))
    relations.place(first)
    made = relations.place(schema("x", "m", other, version="2"))
    assert (made.relation.name, made.is_new) == ("x_m_v2", True)
    # Agents that have not been updated yet go on where they were.
    again = relations.place(schema("x", "m", counter("a"), counter("b"), version="1.1"))
    assert again.relation.name == "x_m"
    assert relations.place(first).relation.name == "x_m"


def test_a_schema_that_is_placed_again_adds_nothing() -> None:
    relations = Relations()
    first = relations.place(schema("x", "m"))
    again = relations.place(schema("x", "m"))
    assert (first.is_new, again.is_new, again.added) == (True, False, ())


def test_what_was_recorded_is_restored_with_the_same_names() -> None:
    relations = Relations()
    schemas = [
        schema("x", "m", key("a.b"), key("a_b"), counter("n")),
        schema("x", "m", key("a.b"), counter("n", "u32"), version="2"),
        schema("x", "m", key("a-b"), counter("n"), version="3"),
    ]
    for one in schemas:
        relations.place(one)
    restored = Relations()
    # Of the first nothing is left: what it named stays named so.
    for one in relations.placements()[1:]:
        restored.restore(one.recorded())
    for one in schemas[1:]:
        before, after = relations.place(one), restored.place(one)
        assert (after.relation.name, after.fields) == (before.relation.name, before.fields)
        assert after.schema == one


def test_columns_recorded_as_nonsense_are_an_error_of_the_store() -> None:
    with pytest.raises(StoreError, match="can't be read"):
        Relations().restore(Recorded("0" * 32, "x_m", "x", "1", "m", "", '[{"name": 1}]'))


@given(st.text(max_size=300))
def test_an_identifier_needs_no_quotes(text: str) -> None:
    made = identifier(text)
    assert len(made) <= 100
    assert made == "" or set(made) <= set("abcdefghijklmnopqrstuvwxyz0123456789_")


# ---- Arrow


def parts(column: Column, raw: bytes, cut: int) -> list[np.ndarray]:
    whole = np.frombuffer(raw, column.dtype)
    return [whole[:cut], whole[cut:]]


@given(st.lists(st.binary(min_size=6, max_size=6), max_size=20), st.integers(0, 20))
def test_text_is_what_its_bytes_decode_to_one_by_one(values: list[bytes], cut: int) -> None:
    column = Column("t", "value", "char", 6, "label")
    made = arrow_column(column, column_bytes(parts(column, b"".join(values), cut)))
    made.validate(full=True)
    assert made.to_pylist() == [one.partition(b"\0")[0].decode("utf-8", "replace") for one in values]


@given(st.lists(st.sampled_from(["ä", "€uro", "a\0é", "", "ls", "\U0001f600"]), max_size=20))
def test_text_that_is_cut_inside_a_character_says_so(values: list[str]) -> None:
    column = Column("t", "value", "char", 3, "label")
    raw = [one.encode()[:3].ljust(3, b"\0") for one in values]
    made = arrow_column(column, b"".join(raw))
    assert made.to_pylist() == [one.partition(b"\0")[0].decode("utf-8", "replace") for one in raw]


@pytest.mark.parametrize(
    ("kind", "count", "raw", "values"),
    [
        ("u16", None, b"\x01\x02\xff\xff", [0x201, 0xFFFF]),
        ("s8", None, b"\x01\xff", [1, -1]),
        ("f64", None, b"\0\0\0\0\0\0\xf0\x7f", [float("inf")]),
        ("bool", None, b"\x00\x01\x07", [False, True, True]),
        ("bool", 2, b"\x00\x01\x07\x00", [[False, True], [True, False]]),
        ("u32", 2, b"\x01\0\0\0\x02\0\0\0\x03\0\0\0\x04\0\0\0", [[1, 2], [3, 4]]),
        ("u32", 1, b"\x01\0\0\0", [[1]]),
        ("bytes", 3, b"\x01\xab\x00\xff\xff\xff", ["01ab00", "ffffff"]),
        ("bytes", None, b"\x0f", ["0f"]),
        ("char", None, b"a\0\xff", ["a", "", "\ufffd"]),
        ("u64", None, b"", []),
        ("char", 4, b"", []),
        ("u64", 3, b"", []),
    ],
)
def test_a_column_of_bytes_becomes_an_arrow_array(
    kind: str, count: int | None, raw: bytes, values: list[object]
) -> None:
    column = Column("x", "value", kind, count, "gauge")
    made = arrow_column(column, raw)
    made.validate(full=True)
    assert made.type == arrow_type(column)
    assert made.to_pylist() == values


def test_columns_that_are_no_stretch_of_memory_are_taken_too() -> None:
    column = counter("n", "u16")
    strided = np.arange(10, dtype="<u2")[::2]
    made = arrow_column(column, column_bytes([strided, strided]))
    assert made.to_pylist() == [0, 2, 4, 6, 8] * 2
    assert pa.types.is_uint16(made.type)


@given(st.lists(st.binary(min_size=4, max_size=4), max_size=20))
def test_keys_whose_bytes_differ_are_told_apart_though_their_text_is_the_same(values: list[bytes]) -> None:
    column = Column("t", "key", "char", 4, "label")
    raw = b"".join(values)
    rest = key_rest([column], [raw])
    numbers = [0] * len(values) if rest is None else rest.tolist()
    texts = arrow_column(column, raw).to_pylist()
    assert len(set(zip(texts, numbers, strict=True))) == len(set(values))


def test_text_that_says_all_of_its_bytes_needs_no_more() -> None:
    column = Column("t", "key", "char", 4, "label")
    assert key_rest([column], [b"sh\0\0bash\0\0\0\0"]) is None


# ---- parts


@pytest.mark.parametrize("seen", [True, False])
def test_the_rows_of_a_last_part_follow_those_of_the_parts_before(seen: bool) -> None:
    starts = RowStarts()
    changes = {"parts": 3, "entries": 5}
    parts = [snapshot(seq + 1, {"a": 1, "b": 2}, part=seq, **changes) for seq in (0, 1)]
    if seen:
        assert [starts.of(one) for one in parts] == [0, 2]
    assert starts.of(snapshot(3, {"c": 3}, part=2, **changes)) == 4


def test_a_snapshot_in_one_part_begins_at_its_first_row() -> None:
    assert RowStarts().of(snapshot(1)) == 0


@pytest.mark.parametrize(
    ("nanoseconds", "moment"),
    [(-5, 0), (1_999, 1), (1 << 70, 10_413_791_999_999_999)],
)
def test_a_time_that_no_store_can_say_is_the_nearest_that_all_can(nanoseconds: int, moment: int) -> None:
    assert micros(nanoseconds) == moment

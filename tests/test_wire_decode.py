"""Frames to records: views on the frame, what is accepted, what is refused and how little it costs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest

from bpfleet.errors import WireError
from bpfleet.wire import (
    Column,
    Decoder,
    Gap,
    Limits,
    Schema,
    Snapshot,
    Status,
    UnknownSchema,
    compress,
    decode,
    encode_gap,
    encode_schema,
    encode_snapshot,
    encode_status,
)
from make_golden import GAP, SMALL, SMALL_ROWS, STATUS, small_columns, snapshot_of

MIB = 1 << 20


def frame_of(schema: Schema = SMALL, rows: list[Any] | None = None) -> bytes:
    columns = small_columns(SMALL_ROWS if rows is None else rows)
    (frame,) = encode_snapshot(snapshot_of(schema, columns, 9), encode_schema(schema))
    return bytes(frame.data)


def knowing(*schemas: Schema, limits: Limits | None = None) -> Decoder:
    decoder = Decoder(limits)
    for schema in schemas:
        decoder.decode(encode_schema(schema).data)
    return decoder


def changed(frame: bytes | memoryview, **fields: Any) -> bytes:
    packed: bytes = msgpack.packb(msgpack.unpackb(frame) | fields)
    return packed


def numbered(number: int, columns: int = 1) -> Schema:
    listed = tuple(Column(f"f{i}", "value", "u8", None, "gauge") for i in range(columns))
    return Schema(f"c{number}", "1", "m", "", listed)


# ---- columns are views


@pytest.mark.parametrize(
    "wrap", [bytes, bytearray, memoryview, lambda frame: np.frombuffer(frame, np.uint8).data]
)
def test_columns_are_read_only_views_on_the_frame(wrap: Any) -> None:
    frame = wrap(frame_of())
    snapshot = knowing(SMALL).decode(frame)
    assert isinstance(snapshot, Snapshot)
    whole = np.frombuffer(frame, np.uint8)
    for array in snapshot.columns:
        assert np.shares_memory(array, whole)
        assert not array.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            array[...] = array


def test_columns_are_right_at_every_alignment() -> None:
    decoder = knowing(SMALL)
    aligned = set()
    for shift in range(8):
        store = bytes(shift) + frame_of()
        snapshot = decoder.decode(memoryview(store)[shift:])
        assert isinstance(snapshot, Snapshot)
        aligned.add(snapshot.columns[2].ctypes.data % 8)
        assert snapshot.columns[2].tolist() == [3, 1 << 40]
        assert (snapshot.columns[2] + 1).sum() == (1 << 40) + 5
    assert len(aligned) == 8


def test_rows_can_be_taken_slice_by_slice() -> None:
    rows = [(n, b"x", n) for n in range(100)]
    snapshot = knowing(SMALL).decode(frame_of(rows=rows))
    assert isinstance(snapshot, Snapshot)
    assert snapshot.to_rows(98) == [{"pid": n, "comm": "x", "calls": n} for n in (98, 99)]
    assert [
        row for start in range(0, 100, 7) for row in snapshot.to_rows(start, start + 7)
    ] == snapshot.to_rows()


# ---- what a newer agent may add


@pytest.mark.parametrize(
    "frame", [frame_of(), encode_schema(SMALL).data, encode_gap(GAP).data, encode_status(STATUS).data]
)
@pytest.mark.parametrize("value", [None, -1, 2**64 - 1, 0.5, "text", [1, [2]], {"a": {"b": "c"}}])
def test_a_field_of_a_later_agent_is_accepted(frame: bytes, value: Any) -> None:
    decoder = knowing(SMALL)
    record, extended = decoder.decode(frame), decoder.decode(changed(frame, later=value))
    assert type(record) is type(extended)
    if isinstance(record, Status) and isinstance(extended, Status):
        assert extended.body == {**record.body, "later": value}


def test_a_bin_in_a_field_of_a_later_agent_is_accepted_outside_a_status() -> None:
    assert isinstance(decode(changed(encode_gap(GAP).data, later=b"\0")), Gap)


def test_words_that_are_not_known_are_passed_on() -> None:
    record = msgpack.unpackb(encode_status(STATUS).data)
    record["collectors"][0]["state"] = "hibernating"
    status = decode(msgpack.packb(record))
    assert isinstance(status, Status)
    assert status.body["collectors"][0]["state"] == "hibernating"
    gap = decode(changed(encode_gap(GAP).data, reason="moon_phase"))
    assert isinstance(gap, Gap)
    assert gap.reason == "moon_phase"
    snapshot = knowing(SMALL).decode(changed(frame_of(), method="psychic", losses={"sunspots": 3}))
    assert isinstance(snapshot, Snapshot)
    assert (snapshot.method, snapshot.losses) == ("psychic", {"sunspots": 3})


def test_a_longer_form_of_a_value_is_accepted() -> None:
    frame = encode_gap(GAP).data
    at = frame.index(b"\xa5count\x07")
    assert decode(frame[: at + 6] + b"\xcf" + (7).to_bytes(8, "big") + frame[at + 7 :]) == GAP


# ---- what is wrong says so


def test_a_snapshot_without_its_schema_names_the_id_to_ask_for() -> None:
    with pytest.raises(UnknownSchema) as caught:
        decode(frame_of())
    assert caught.value.schema_id == SMALL.id
    assert caught.value.remedy


WRONG = (None, True, -1, 1.5, float("nan"), "", "x" * 300, b"", [], {}, [[]], 2**64 - 1)


def of_another_type() -> list[tuple[str, Any]]:
    """(field of a snapshot, value that it can't have)"""
    good = msgpack.unpackb(frame_of())
    return [
        (key, value)
        for key in good
        for value in WRONG
        if type(value) is not type(good[key]) or (key == "columns") or (key == "v" and value != 1)
    ]


@pytest.mark.parametrize(("key", "value"), of_another_type())
def test_a_snapshots_field_of_the_wrong_type_is_an_error_that_names_it(key: str, value: Any) -> None:
    with pytest.raises(WireError) as caught:
        knowing(SMALL).decode(changed(frame_of(), **{key: value}))
    assert repr(key) in str(caught.value) or "finite" in str(caught.value)


@pytest.mark.parametrize("value", ["x" * 16_000, b"x" * 16_000, [["x"]] * 1000, {"x" * 255: {}}, "\x1b[2J\n"])
def test_an_error_never_repeats_much_of_what_was_sent(value: Any) -> None:
    with pytest.raises(WireError) as caught:
        decode(changed(encode_gap(GAP).data, t1=value))
    text = str(caught.value)
    assert len(text) < 250
    assert text.isprintable() or text.replace("\n", "").isprintable()
    assert "\x1b" not in text


def test_names_in_an_error_are_short_too() -> None:
    with pytest.raises(WireError) as caught:
        knowing(SMALL).decode(changed(frame_of(), losses={"\n" * 10_000: -1}))
    assert len(str(caught.value)) < 250


def test_where_is_said_as_the_caller_said_it() -> None:
    with pytest.raises(WireError) as caught:
        Decoder().decode(b"\x80", where="records.bpfleet at byte 7")
    assert "records.bpfleet at byte 7" in caught.value.where


# ---- limits


@pytest.mark.parametrize(
    ("limits", "frame"),
    [
        (Limits(frame_bytes=100), frame_of()),
        (Limits(frame_bytes=100), compress(frame_of(rows=[]))),
        (Limits(text_bytes=20), frame_of()),
        (Limits(items=10), frame_of()),
        (Limits(values=40), frame_of()),
        (Limits(depth=1), frame_of()),
        (Limits(columns=2), encode_schema(SMALL).data),
        (Limits(element_bytes=7), encode_schema(SMALL).data),
        (Limits(schema_bytes=500), encode_schema(SMALL).data),
    ],
)
def test_every_limit_can_be_set(limits: Limits, frame: bytes) -> None:
    knowing(SMALL).decode(frame)
    with pytest.raises(WireError) as caught:
        Decoder(limits).decode(frame)
    assert not isinstance(caught.value, UnknownSchema)


def test_a_larger_limit_lets_larger_frames_in() -> None:
    gap = changed(encode_gap(GAP).data, later=["x" * 16_000] * 400)
    with pytest.raises(WireError, match="the limit is 4194304"):
        decode(gap)
    assert isinstance(Decoder(Limits(frame_bytes=8 * MIB)).decode(gap), Gap)


def test_a_depth_that_python_can_not_take_is_a_wire_error() -> None:
    gap = encode_gap(GAP).data
    deep = bytes([gap[0] + 1]) + gap[1:] + b"\xa1x" + b"\x91" * 100_000 + b"\x90"
    with pytest.raises(WireError, match="deep"):
        Decoder(Limits(depth=1 << 30, values=1 << 30)).decode(deep)


def test_the_schema_used_longest_ago_is_forgotten_first() -> None:
    decoder = knowing(numbered(0), numbered(1), limits=Limits(schemas=2))
    first = changed(snapshot_frame(numbered(0)))
    decoder.decode(first)
    decoder.decode(encode_schema(numbered(2)).data)
    decoder.decode(first)
    with pytest.raises(UnknownSchema):
        decoder.decode(snapshot_frame(numbered(1)))


def snapshot_frame(schema: Schema) -> bytes:
    columns = [np.zeros((1, *c.dtype.shape), c.dtype.base) for c in schema.columns]
    (frame,) = encode_snapshot(snapshot_of(schema, columns, 1), encode_schema(schema))
    return bytes(frame.data)


def test_schemas_are_bounded_in_bytes_and_the_newest_stays() -> None:
    most = 200_000
    decoder = Decoder(Limits(schema_bytes=most))
    for number in range(100):
        decoder.decode(encode_schema(numbered(number, columns=50)).data)
        assert 0 < decoder.schema_bytes <= most
    assert isinstance(decoder.decode(snapshot_frame(numbered(99, columns=50))), Snapshot)
    with pytest.raises(UnknownSchema):
        decoder.decode(snapshot_frame(numbered(0, columns=50)))


def test_a_schema_sent_again_costs_nothing_more() -> None:
    decoder = knowing(SMALL)
    once = decoder.schema_bytes
    for _ in range(10):
        decoder.decode(encode_schema(SMALL).data)
    assert decoder.schema_bytes == once


def test_a_refused_schema_does_not_touch_one_that_is_known() -> None:
    decoder = knowing(SMALL)
    with pytest.raises(WireError, match="id of its content"):
        decoder.decode(changed(encode_schema(SMALL).data, help="another meaning"))
    assert isinstance(decoder.decode(frame_of()), Snapshot)


# ---- memory, measured in a child that has little


@pytest.fixture(scope="module")
def hostile() -> dict[str, dict[str, Any]]:
    """What `wire_hostile.py` printed, by case."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("wire_hostile.py"))],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    return {one["case"]: one for one in answers}


def test_a_child_with_little_memory_survives_every_attack(hostile: dict[str, dict[str, Any]]) -> None:
    assert len(hostile) == 27
    accepted = {
        case for case, one in hostile.items() if one["answer"] in ("Gap", "Schema", "Snapshot", "Status")
    }
    assert accepted == {
        "zstd of as many values as are allowed",
        "zstd of texts that take four times their size",
        "schemas without end",
    }


def test_no_frame_takes_more_than_its_own_worth_of_memory(hostile: dict[str, dict[str, Any]]) -> None:
    """4 MiB decompressed, texts of up to 4 bytes a character, 65,536 values: below 24 MiB."""
    assert {case: one["peak"] for case, one in hostile.items() if one["peak"] > 24 * MIB} == {}


def test_sizes_that_are_only_claimed_cost_nothing(hostile: dict[str, dict[str, Any]]) -> None:
    claims = [one["peak"] for case, one in hostile.items() if "2^" in case or "bomb" in case]
    assert len(claims) == 10
    assert max(claims) < 64 << 10


def test_schemas_without_end_take_no_more_than_the_limit(hostile: dict[str, dict[str, Any]]) -> None:
    assert hostile["memory of schemas"]["peak"] <= Limits().schema_bytes

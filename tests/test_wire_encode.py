"""Records to frames: one copy, exact bytes, parts at every boundary, nothing that a decoder would refuse."""

from __future__ import annotations

import tracemalloc
from typing import Any

import msgpack
import numpy as np
import pytest

from bpfleet.errors import WireError
from bpfleet.layout import Leaf, declared
from bpfleet.reading.columns import views
from bpfleet.schema import Meaning, counter, histogram, label
from bpfleet.wire import (
    Column,
    Decoder,
    Frame,
    Gap,
    Schema,
    Snapshot,
    Status,
    compress,
    encode_gap,
    encode_schema,
    encode_snapshot,
    encode_status,
)
from bpfleet.wire.encode import FRAME_BYTES
from bpfleet.wire.records import columns_of
from make_golden import GAP, ORIGIN, SMALL, STATUS, small_columns, snapshot_of

KEY = declared([label("comm", "char[16]"), label("flags", "u8"), label("blob", "bytes[5]")])
VALUE = declared([counter("calls"), histogram("latency", 4), counter("errors", "u32")])
MIXED = Schema("c", "1", "m", "", columns_of(KEY.columns(), VALUE.columns()))


def rows_in_the_kernels_buffer(rows: int) -> list[Any]:
    """Columns as reading gives them: strided views over one buffer of rows, here of random bytes."""
    stride = 24 + VALUE.size
    buffer = np.random.default_rng(rows).integers(0, 256, rows * stride, np.uint8)
    return [*views(buffer, 0, stride, rows, KEY), *views(buffer, 24, stride, rows, VALUE)]


def sent_and_decoded(snapshot: Snapshot, most: int = FRAME_BYTES) -> list[Snapshot]:
    decoder = Decoder()
    schema = encode_schema(snapshot.schema)
    decoder.decode(schema.data)
    parts = [decoder.decode(frame.data) for frame in encode_snapshot(snapshot, schema, most=most)]
    assert all(isinstance(part, Snapshot) for part in parts)
    return parts


def row_of(width: int) -> Schema:
    return Schema("c", "1", "m", "", (Column("wide", "value", "bytes", width, "label"),))


# ---- columns


def test_strided_views_over_the_kernels_rows_arrive_byte_for_byte() -> None:
    columns = rows_in_the_kernels_buffer(257)
    (decoded,) = sent_and_decoded(snapshot_of(MIXED, columns, 1))
    assert not columns[0].flags.c_contiguous
    for sent, got in zip(columns, decoded.columns, strict=True):
        assert got.tobytes() == sent.tobytes()
        assert (got.shape, got.dtype) == (sent.shape, sent.dtype)


def test_histogram_columns_keep_their_shape() -> None:
    (decoded,) = sent_and_decoded(snapshot_of(MIXED, rows_in_the_kernels_buffer(3), 1))
    assert decoded.to_columns()["latency"].shape == (3, 4)
    assert isinstance(decoded.to_rows()[0]["latency"], list)


@pytest.mark.parametrize("kind", ["char", "bytes"])
def test_nuls_blanks_and_bytes_that_are_not_utf8_survive(kind: str) -> None:
    schema = Schema("c", "1", "m", "", (Column("x", "key", kind, 6, "label"),))
    raw = b"a\0b\0\0 " + b"\0\0\0\0\0\0" + b"\xff\xfe  \0\0" + b"\0\0\0\0\0x"
    column = np.frombuffer(raw, schema.columns[0].dtype)
    (decoded,) = sent_and_decoded(snapshot_of(schema, [column], 1))
    assert decoded.columns[0].tobytes() == raw
    shown = [row["x"] for row in decoded.to_rows()]
    if kind == "char":
        assert shown == ["a", "", "\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}  ", ""]
    else:
        assert shown == [raw[i : i + 6].hex() for i in range(0, 24, 6)]


@pytest.mark.parametrize("size", [1, 255, 256, 65_535, 65_536])
def test_columns_of_every_size_are_headed_right(size: int) -> None:
    schema = row_of(size)
    column = np.full(1, b"\xaa" * size, schema.columns[0].dtype)
    (decoded,) = sent_and_decoded(snapshot_of(schema, [column], 1))
    assert decoded.columns[0].tobytes() == b"\xaa" * size


def test_a_large_snapshot_is_copied_once_and_never_held_twice() -> None:
    columns = rows_in_the_kernels_buffer(50_000)
    snapshot = snapshot_of(MIXED, columns, 1)
    schema = encode_schema(MIXED)
    size = sum(len(frame.data) for frame in encode_snapshot(snapshot, schema, most=4 << 20))
    tracemalloc.start()
    try:
        frames = list(encode_snapshot(snapshot, schema, most=4 << 20))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(frames) == 1
    assert peak < size + (64 << 10)


def test_a_frame_does_not_change_with_the_buffer_it_came_from() -> None:
    columns = small_columns([(1, b"a", 1)])
    (frame,) = encode_snapshot(snapshot_of(SMALL, columns, 1), encode_schema(SMALL))
    before = bytes(frame.data)
    columns[2][0] = 99
    assert bytes(frame.data) == before
    with pytest.raises(TypeError):
        frame.data[0] = 0


@pytest.mark.parametrize(
    ("index", "column"),
    [
        (0, np.array([1], "<u4")),  # numpy would repeat the one value
        (0, np.array([1, 2], "<u8")),  # and convert these
        (0, np.array([1, 2], ">u4")),
        (1, np.array([b"longer than 4", b""], "S13")),  # and cut this
        (2, np.array([[1], [2]], "<u8")),
    ],
)
def test_a_column_that_is_not_as_its_schema_says_is_a_defect(index: int, column: np.ndarray) -> None:
    columns = small_columns([(1, b"a", 1), (2, b"b", 2)])
    columns[index] = column
    with pytest.raises(ValueError, match=SMALL.columns[index].name):
        list(encode_snapshot(snapshot_of(SMALL, columns, 1, rows=2), encode_schema(SMALL)))


# ---- parts


def overhead(schema: Schema) -> int:
    """`most` less this is room for rows; found by trying."""
    width = sum(column.dtype.itemsize for column in schema.columns)
    snapshot = snapshot_of(schema, empty_columns(schema, 2), 1)
    for most in range(200, 2000):
        if len(list(encode_snapshot(snapshot, encode_schema(schema), most=most))) == 1:
            return most - 2 * width
    raise AssertionError


def empty_columns(schema: Schema, rows: int) -> list[Any]:
    return [np.zeros((rows, *c.dtype.shape), c.dtype.base) for c in schema.columns]


@pytest.mark.parametrize(
    ("rows", "parts"),
    [(0, [0]), (1, [1]), (9, [9]), (10, [10]), (11, [10, 1]), (20, [10, 10]), (21, [10, 10, 1])],
)
def test_parts_are_right_at_every_boundary(rows: int, parts: list[int]) -> None:
    most = overhead(SMALL) + 10 * 16
    sent = [(n, f"{n}".encode(), n * n) for n in range(rows)]
    decoded = sent_and_decoded(snapshot_of(SMALL, small_columns(sent), 100, entries=rows), most)
    assert [part.rows for part in decoded] == parts
    assert [part.part for part in decoded] == list(range(len(parts)))
    assert {part.parts for part in decoded} == {len(parts)}
    assert [part.seq for part in decoded] == list(range(100, 100 + len(parts)))
    assert {(part.t0, part.t1, part.generation, part.entries) for part in decoded} == {
        (decoded[0].t0, decoded[0].t1, decoded[0].generation, rows)
    }
    joined = [row for part in decoded for row in part.to_rows()]
    assert joined == [{"pid": n, "comm": f"{n}", "calls": n * n} for n in range(rows)]


@pytest.mark.parametrize("less", [0, 1])
def test_one_byte_less_room_is_one_row_less(less: int) -> None:
    most = overhead(SMALL) + 10 * 16 - less
    decoded = sent_and_decoded(snapshot_of(SMALL, empty_columns(SMALL, 30), 1), most)
    assert decoded[0].rows == 10 - less


def test_no_frame_is_larger_than_asked_for_whatever_stands_in_its_head() -> None:
    columns = tuple(Column(f"c{i}", "value", "u8", None, "gauge") for i in range(500))
    schema = Schema("c" * 255, "v" * 255, "m" * 255, "", columns)
    losses = {f"{'r' * 100}{i}": 2**64 - 1 for i in range(20)}
    snapshot = snapshot_of(schema, empty_columns(schema, 2000), 2**63, losses=losses)
    frames = list(encode_snapshot(snapshot, encode_schema(schema), most=50_000))
    assert 47_000 < max(len(frame.data) for frame in frames) <= 50_000
    assert len(frames) > 20


def test_a_row_wider_than_asked_for_is_a_frame_of_its_own() -> None:
    schema = row_of(5000)
    decoded = sent_and_decoded(snapshot_of(schema, empty_columns(schema, 3), 1), 1024)
    assert [part.rows for part in decoded] == [1, 1, 1]


def test_frames_stay_within_what_decoders_take_whatever_the_setting_says() -> None:
    schema = row_of(1 << 20)
    decoded = sent_and_decoded(snapshot_of(schema, empty_columns(schema, 9), 1), 1 << 30)
    assert [part.rows for part in decoded] == [3, 3, 3]


def test_frames_carry_what_delivery_needs() -> None:
    schema = encode_schema(SMALL)
    frames = list(encode_snapshot(snapshot_of(SMALL, empty_columns(SMALL, 40), 7), schema, most=551))
    assert [(f.kind, f.seq) for f in frames] == [("snapshot", 7 + n) for n in range(len(frames))]
    assert all(frame.schema is schema for frame in frames)
    assert schema == Frame("schema", 0, schema.data)


# ---- schemas


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ((), "1 to 512 columns"),
        (
            (Column("a", "key", "u8", None, "label"), Column("a", "value", "u8", None, "gauge")),
            "names that differ",
        ),
        ((Column("a b", "key", "u8", None, "label"),), "'a b'"),
        ((Column("a", "key", "char", 0, "label"),), "got 0"),
        ((Column("a", "value", "bytes", (1 << 20) + 1, "label"),), "1048576"),
        (tuple(Column(f"a{i}", "value", "bytes", 1 << 20, "label") for i in range(4)), "4194304 bytes"),
        ((Column("a", "key", "u8", None, "label", help="x" * 16_385),), "16385"),
    ],
)
def test_a_schema_that_no_decoder_takes_is_an_error_that_names_the_map(columns: tuple, said: str) -> None:
    with pytest.raises(WireError, match=said) as caught:
        encode_schema(Schema("execve", "1", "calls", "", columns))
    assert "collector 'execve', map 'calls'" in caught.value.where
    assert caught.value.remedy


def test_the_id_is_the_contents_alone() -> None:
    again = Schema(SMALL.collector, SMALL.version, SMALL.map, SMALL.help, SMALL.columns)
    other = Schema(SMALL.collector, "1.1", SMALL.map, SMALL.help, SMALL.columns)
    assert again.id == SMALL.id != other.id
    assert len(SMALL.id) == 32


def leaf(name: str) -> Leaf:
    return Leaf(name, 0, "u32", None, Meaning.GAUGE)


@pytest.mark.parametrize(
    ("key", "value", "names"),
    [
        ([""], [""], ["key", "value"]),
        (["pid"], ["pid", "count"], ["pid", "value.pid", "count"]),
        ([""], ["key"], ["key", "value.key"]),
        (["value.pid", "pid"], ["pid"], ["value.pid", "pid", "value.value.pid"]),
    ],
)
def test_columns_of_a_derived_schema_get_names_that_differ(key: list, value: list, names: list) -> None:
    columns = columns_of(map(leaf, key), map(leaf, value))
    assert [column.name for column in columns] == names
    encode_schema(Schema("c", "1", "m", "", columns))


# ---- gaps and statuses


def test_a_sinks_endless_reason_is_cut_not_refused() -> None:
    fields = {name: getattr(GAP, name) for name in ("seq", "first", "last", "count", "sink", "t1")}
    gap = Gap(origin=ORIGIN, reason="é" * 1000, **fields)
    decoded = Decoder().decode(encode_gap(gap).data)
    assert isinstance(decoded, Gap)
    assert decoded.reason.startswith("é" * 100)
    assert decoded.reason.endswith("(cut)")
    assert len(decoded.reason.encode()) <= 255


def status_with(**body: Any) -> Status:
    return Status(origin=ORIGIN, seq=1, t1=2, wall_offset=3, body={**STATUS.body, **body})


def test_one_endless_log_does_not_cost_the_status() -> None:
    broken = {"name": "x", "state": "load_error", "error": {"what": "w", "log": "ab€" * 100_000}}
    decoded = Decoder().decode(encode_status(status_with(collectors=[broken])).data)
    assert isinstance(decoded, Status)
    log = decoded.body["collectors"][0]["error"]["log"]
    assert log.startswith("ab€")
    assert log.endswith("(cut)")
    assert 16_000 < len(log.encode()) <= 16_384


def test_numbers_that_are_not_finite_become_nil() -> None:
    decoded = Decoder().decode(
        encode_status(status_with(software={"cpu_s": float("nan"), "x": float("inf")})).data
    )
    assert isinstance(decoded, Status)
    assert decoded.body["software"] == {"cpu_s": None, "x": None}


def test_file_names_that_are_not_utf8_can_be_told() -> None:
    name = b"/tmp/\xff.bpf.o".decode("utf-8", "surrogateescape")
    sink = {"name": "file", "state": "quarantined", "error": {"what": "is no file", "where": name}}
    decoded = Decoder().decode(encode_status(status_with(sinks=[sink])).data)
    assert isinstance(decoded, Status)
    assert decoded.body["sinks"][0]["error"]["where"] == "/tmp/?.bpf.o"


def test_a_body_can_not_pass_for_the_records_head() -> None:
    frame = encode_status(status_with(kind="gap", seq=99, agent="somebody else"))
    assert msgpack.unpackb(frame.data)["seq"] == 1
    decoded = Decoder().decode(frame.data)
    assert isinstance(decoded, Status)
    assert decoded.origin == ORIGIN


def test_compressed_frames_are_taken_as_plain_ones_are() -> None:
    decoder = Decoder()
    schema = encode_schema(SMALL)
    decoder.decode(compress(schema.data))
    (frame,) = encode_snapshot(snapshot_of(SMALL, small_columns([(1, b"a", 5)]), 1), schema)
    decoded = decoder.decode(compress(frame.data))
    assert isinstance(decoded, Snapshot)
    assert decoded.to_rows() == [{"pid": 1, "comm": "a", "calls": 5}]

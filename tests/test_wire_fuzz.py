"""Damaged and invented frames: both decoders must say the same of each.

Three ways to make a frame: bytes at random; a golden frame with bytes changed; a golden frame taken apart,
changed as a record and put together again, so that the damage gets past the msgpack layer.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from bpfleet.errors import WireError
from bpfleet.wire import (
    Column,
    Decoder,
    Schema,
    Snapshot,
    compress,
    encode_schema,
    encode_snapshot,
    read_file,
)
from make_golden import goldens, plain, snapshot_of
from test_wire_golden import inflate
from wire_reference import TYPES, Reference, Refused

GOLDENS = list(goldens())
FRAMES = [golden.frame for golden in GOLDENS]
PLAIN_FRAMES = [golden.frame for golden in GOLDENS if not golden.name.endswith("zstd")]
SCHEMAS = [golden.frame for golden in GOLDENS if golden.name.startswith("schema")]
REFUSED = "refused"

OURS, THEIRS = Decoder(), Reference(inflate)
for _schema in SCHEMAS:
    OURS.decode(_schema)
    THEIRS.decode(_schema)


def fixed(examples: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """As many `examples` in every run, none of them by chance, whatever the machine's speed.

    Hypothesis also tries numbers and texts that it finds in the modules of this checkout, so another set of
    imported modules gives other examples.
    """
    return settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def ours(frame: bytes) -> str:
    """What our decoder makes of `frame`, as JSON; any exception but WireError fails the test."""
    try:
        return json.dumps(plain(OURS.decode(frame)), sort_keys=True)
    except WireError:
        return REFUSED


def theirs(frame: bytes) -> str:
    """What the reference decoder makes of it."""
    try:
        return json.dumps(THEIRS.decode(frame), sort_keys=True)
    except Refused:
        return REFUSED


# ---- damage to bytes

changes = st.lists(
    st.tuples(
        st.sampled_from(["set", "insert", "delete", "repeat", "cut"]),
        st.integers(0, 1 << 16),
        st.one_of(
            st.binary(min_size=1, max_size=6),
            st.sampled_from(
                [b"\xc1", b"\xc0", b"\x90", b"\x80", b"\xdd\xff\xff\xff\xff", b"\xc6\0\0\0\x01\0", b"\xa1v"]
            ),
        ),
    ),
    min_size=1,
    max_size=4,
)


def damaged(frame: bytes, changes: list[tuple[str, int, bytes]]) -> bytes:
    """`frame` with each of the changes made to it."""
    for how, place, data in changes:
        at = place % (len(frame) + 1)
        if how == "set":
            frame = frame[:at] + data + frame[at + len(data) :]
        elif how == "insert":
            frame = frame[:at] + data + frame[at:]
        elif how == "delete":
            frame = frame[:at] + frame[at + len(data) :]
        elif how == "repeat":
            frame = frame[:at] + frame[at : at + 20] + frame[at:]
        else:
            frame = frame[:at]
    return frame


@fixed(200)
@given(st.binary(max_size=200))
def test_bytes_at_random_are_refused(frame: bytes) -> None:
    assert ours(frame) == theirs(frame) == REFUSED


@fixed(800)
@given(st.sampled_from(FRAMES), changes)
def test_damaged_bytes_mean_the_same_to_both_decoders(
    frame: bytes, changes: list[tuple[str, int, bytes]]
) -> None:
    frame = damaged(frame, changes)
    assert ours(frame) == theirs(frame)


@pytest.mark.parametrize("name", ["gap", "snapshot_small"])
def test_every_single_byte_may_be_wrong(name: str) -> None:
    """Each byte set to values that change what follows it."""
    (frame,) = (golden.frame for golden in GOLDENS if golden.name == name)
    for at in range(len(frame)):
        for byte in (0xC1, 0xDD, frame[at] ^ 1):
            changed = frame[:at] + bytes([byte]) + frame[at + 1 :]
            assert ours(changed) == theirs(changed), (at, byte)


@fixed(100)
@given(st.binary(max_size=300))
def test_compressed_bytes_at_random_are_refused(content: bytes) -> None:
    assert ours(compress(content)) == theirs(compress(content)) == REFUSED


# ---- damage to records

hostile_values = st.one_of(
    st.sampled_from(
        [None, True, False, 0, 1, 2, 14, -1, 2**32, 2**63, 2**64 - 1, -(2**63), 1.0, 0.5, float("nan")]
    ),
    st.sampled_from(
        [
            "",
            " ",
            "\0",
            "\x7f",
            "é",
            "\u2028",
            "key",
            "value",
            "u8",
            "u64",
            "char",
            "gap",
            "a" * 65,
            "a" * 256,
        ]
    ),
    st.sampled_from([b"", b"\0", b"\xff" * 8, b"\0" * 16, b"\0" * 24]),
    st.recursive(
        st.one_of(st.none(), st.integers(0, 3), st.text(max_size=3)),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)
        ),
        max_leaves=6,
    ),
)

edits = st.lists(
    st.tuples(
        st.sampled_from(["set", "set", "remove", "add", "add", "copy"]),
        st.integers(0, 1 << 20),
        hostile_values,
    ),
    min_size=1,
    max_size=3,
)


def places(value: Any) -> list[tuple[Any, Any]]:
    """(container, key or index) of everything in a record."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
    found = [(value, key) for key in keys]
    for key in keys:
        found += places(value[key])
    return found


def edited(frame: bytes, edits: list[tuple[str, int, Any]]) -> bytes:
    """`frame` with each of the edits made to the record that it is."""
    record = msgpack.unpackb(frame)
    for how, number, value in edits:
        there = places(record)
        container, key = there[number % len(there)]
        if how == "set":
            container[key] = value
        elif how == "remove":
            del container[key]
        elif how == "add" and isinstance(container, dict):
            container[f"new{number % 3}"] = value
        elif how == "add":
            container.insert(key, value)
        else:
            other, other_key = there[(number * 7919) % len(there)]
            # By way of bytes, so that nothing contains itself.
            container[key] = msgpack.unpackb(msgpack.packb(other[other_key]))
        assume(isinstance(record, dict) and record)
    packed: bytes = msgpack.packb(record)
    return packed


@fixed(1200)
@given(st.sampled_from(PLAIN_FRAMES), edits)
def test_damaged_records_mean_the_same_to_both_decoders(
    frame: bytes, edits: list[tuple[str, int, Any]]
) -> None:
    frame = edited(frame, edits)
    assert ours(frame) == theirs(frame)


@fixed(300)
@given(st.sampled_from(PLAIN_FRAMES), st.text(max_size=8), hostile_values)
def test_an_added_field_changes_nothing_or_is_refused_by_both(frame: bytes, name: str, value: Any) -> None:
    record = msgpack.unpackb(frame)
    assume(name not in record)
    extended = msgpack.packb(record | {name: value})
    answer = ours(extended)
    assert answer == theirs(extended)
    assert answer == REFUSED or record["kind"] == "status" or answer == ours(frame)


# ---- what is sent arrives

names = st.text(
    st.characters(min_codepoint=0x21, exclude_categories=["Cs"], exclude_characters="\x7f"),
    min_size=1,
    max_size=8,
)
column_lists = st.lists(
    st.builds(
        Column,
        names,
        st.sampled_from(["key", "value"]),
        st.sampled_from(list(TYPES)),
        st.one_of(st.none(), st.integers(1, 40)),
        st.sampled_from(["counter", "gauge", "label"]),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    ),
    min_size=1,
    max_size=20,
    unique_by=lambda column: column.name,
)


@fixed(150)
@given(column_lists, names, st.integers(0, 40), st.integers(0, 3000), st.integers(0, 2**32))
def test_any_schema_and_rows_arrive_in_whatever_parts(
    columns: list[Column], name: str, rows: int, most: int, seed: int
) -> None:
    schema = Schema(name, name, name, "", tuple(columns))
    random = np.random.default_rng(seed)
    arrays = []
    for column in columns:
        raw = random.integers(0, 256, rows * column.dtype.itemsize, np.uint8)
        arrays.append(np.ndarray((rows,), column.dtype, raw))
    snapshot = snapshot_of(schema, arrays, 1000, rows=rows)
    sent = encode_schema(schema)
    decoder, reference = Decoder(), Reference()
    assert plain(decoder.decode(sent.data)) == reference.decode(bytes(sent.data))
    whole = [b""] * len(columns)
    for frame in encode_snapshot(snapshot, sent, most=most):
        part = decoder.decode(frame.data)
        assert isinstance(part, Snapshot)
        whole = [so_far + array.tobytes() for so_far, array in zip(whole, part.columns, strict=True)]
        said = json.dumps(reference.decode(bytes(frame.data)), sort_keys=True)
        assert json.dumps(plain(part), sort_keys=True) == said
    assert whole == [array.tobytes() for array in arrays]


# ---- files


@fixed(200)
@given(st.lists(st.sampled_from(FRAMES), max_size=3), changes, st.integers(0, 1))
def test_a_damaged_file_gives_whole_records_then_at_most_a_wire_error(
    tmp_path_factory: pytest.TempPathFactory,
    frames: list[bytes],
    changes: list[tuple[str, int, bytes]],
    wrap: int,
) -> None:
    path = Path(tmp_path_factory.getbasetemp()) / "damaged.bpfleet"
    data = b"".join(msgpack.packb(frame) if wrap else frame for frame in frames)
    path.write_bytes(damaged(data, changes))
    decoder, end = Decoder(), 0
    try:
        for offset, frame in read_file(path):
            assert offset >= end
            end = offset + len(frame)
            ours(frame)
            decoder.decode(frame)
    except WireError:
        pass


def test_the_fuzzer_reaches_both_answers() -> None:
    """The edits leave some frames good and spoil others; else the tests above would show nothing."""
    answers = {"good": 0, "refused": 0}

    @fixed(300)
    @given(st.sampled_from(PLAIN_FRAMES), edits)
    def count(frame: bytes, edits: list[tuple[str, int, Any]]) -> None:
        answers["refused" if ours(edited(frame, edits)) == REFUSED else "good"] += 1

    count()
    assert min(answers.values()) >= 10, answers

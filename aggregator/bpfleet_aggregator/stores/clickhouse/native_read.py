"""Blocks of ClickHouse's format `Native` as Arrow: what a question is answered with."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from bpfleet.errors import StoreError
from bpfleet_aggregator.stores.clickhouse.native_source import Damaged, EndOfAnswer, Reader, Source

__all__ = ["empty_answer", "read_block"]


_NUMBERS = {
    "UInt8": pa.uint8(),
    "UInt16": pa.uint16(),
    "UInt32": pa.uint32(),
    "UInt64": pa.uint64(),
    "Int8": pa.int8(),
    "Int16": pa.int16(),
    "Int32": pa.int32(),
    "Int64": pa.int64(),
    "Float32": pa.float32(),
    "Float64": pa.float64(),
}
_WRAPPED = re.compile(r"(\w+)\((.*)\)\Z", re.DOTALL)
_STEPS = {0: "s", 3: "ms", 6: "us", 9: "ns"}
_TIME_DECIMAL = "Decimal(18, 6)"
"""What stands for a point in time where the server has none below a second (seconds since 1970)."""


def read_block(source: Source, expected: pa.Schema | None = None) -> pa.RecordBatch:
    """The next block; `expected` is the schema of those before. Raises EndOfAnswer behind the last one."""
    reader = Reader(source)
    try:
        columns = reader.varint()
    except Damaged as damage:
        if damage.begin:
            raise
        raise EndOfAnswer from None
    rows = reader.varint()
    if expected is not None and columns != len(expected):
        raise reader.damaged()
    names, arrays = [], []
    for index in range(columns):
        names.append(reader.text())
        if expected is not None and names[-1] != expected.names[index]:
            raise reader.damaged()
        read = _decoder(reader.text())
        arrays.append(read(reader, rows))
    return pa.RecordBatch.from_arrays(arrays, names=names)


def empty_answer(kinds: Mapping[str, str]) -> pa.RecordBatch:
    """No rows, of columns of these types: servers send nothing at all in such a case."""
    reader = Reader(BytesIO())
    return pa.RecordBatch.from_arrays(
        [_decoder(kind)(reader, 0) for kind in kinds.values()], names=list(kinds)
    )


_Decode = Callable[[Reader, int], pa.Array]


def _decoder(kind: str) -> _Decode:
    """How columns of a type are read; raises StoreError for one that Arrow has nothing for."""
    if kind in _NUMBERS:
        return _fixed(_NUMBERS[kind])
    if kind in _OTHERS:
        return _OTHERS[kind]
    found = _WRAPPED.match(kind)
    wrapped = _wrapped(found[1], found[2], kind) if found else None
    if wrapped is None:
        raise StoreError(
            f"an answer has a column of type {kind}, which can't be shown",
            remedy="make it text: toString(COLUMN)",
        )
    return wrapped


def _wrapped(outer: str, inner: str, kind: str) -> _Decode | None:
    if outer == "Nullable":
        return _nullable(_decoder(inner))
    if outer == "Array":
        return _lists(_decoder(inner))
    if outer == "LowCardinality":
        return _low_cardinality(inner)
    if outer == "Tuple":
        return _structs(split_types(inner))
    if outer == "FixedString":
        size = int(inner)
        return lambda reader, rows: _joined(reader.exactly(rows * size), size)
    if outer == "DateTime":
        return _seconds
    if outer == "DateTime64":
        scale = int(inner.partition(",")[0])
        return _fixed(pa.timestamp(_STEPS[scale], "UTC")) if scale in _STEPS else None
    if kind == _TIME_DECIMAL:
        return _fixed(pa.timestamp("us", "UTC"))
    if outer in ("Enum8", "Enum16"):
        return _enum(inner, 1 if outer == "Enum8" else 2)
    return None


def split_types(inner: str) -> list[str]:
    """The types between the brackets of a Tuple: names of members are left out."""
    parts, depth, begin = [], 0, 0
    for at, sign in enumerate(f"{inner},"):
        depth += (sign == "(") - (sign == ")")
        if sign == "," and depth == 0:
            part = inner[begin:at].strip()
            head, space, rest = part.partition(" ")
            parts.append(rest if space and "(" not in head else part)
            begin = at + 1
    return parts


def _fixed(kind: pa.DataType) -> _Decode:
    width = kind.bit_width // 8

    def decode(reader: Reader, rows: int) -> pa.Array:
        return pa.Array.from_buffers(kind, rows, [None, pa.py_buffer(reader.exactly(rows * width))])

    return decode


def _strings(reader: Reader, rows: int) -> pa.Array:
    texts = []
    for _ in range(rows):
        texts.append(reader.exactly(reader.varint()))
    return _text(texts)


def _text(texts: list[bytes]) -> pa.Array:
    try:
        return pa.array(texts, pa.binary()).cast(pa.string())
    except pa.ArrowInvalid:  # a text that is no UTF-8, made by the question itself
        return pa.array([text.decode("utf-8", "replace") for text in texts], pa.string())


def _joined(data: bytes, size: int) -> pa.Array:
    return _text([data[at : at + size].rstrip(b"\0") for at in range(0, len(data), size)])


def _bools(reader: Reader, rows: int) -> pa.Array:
    return pa.array(np.frombuffer(reader.exactly(rows), np.uint8) != 0)


def _nothing(reader: Reader, rows: int) -> pa.Array:
    reader.exactly(rows)
    return pa.nulls(rows)


def _days(reader: Reader, rows: int) -> pa.Array:
    days = np.frombuffer(reader.exactly(2 * rows), "<u2").astype("<i4")
    return pa.array(days, pa.int32()).cast(pa.date32())


def _seconds(reader: Reader, rows: int) -> pa.Array:
    seconds = np.frombuffer(reader.exactly(4 * rows), "<u4").astype("<i8")
    return pa.array(seconds, pa.int64()).cast(pa.timestamp("s", "UTC"))


def _uuids(reader: Reader, rows: int) -> pa.Array:
    halves = np.frombuffer(reader.exactly(16 * rows), "<u8").reshape(rows, 2).tolist()
    texts = [f"{high:016x}{low:016x}" for high, low in halves]
    return pa.array([f"{t[:8]}-{t[8:12]}-{t[12:16]}-{t[16:20]}-{t[20:]}" for t in texts], pa.string())


_OTHERS: Mapping[str, _Decode] = {
    "String": _strings,
    "Bool": _bools,
    "Nothing": _nothing,
    "Date": _days,
    "DateTime": _seconds,
    "UUID": _uuids,
}


def _nullable(decode: _Decode) -> _Decode:
    def nullable(reader: Reader, rows: int) -> pa.Array:
        mask = pa.array(np.frombuffer(reader.exactly(rows), np.uint8) != 0)
        values = decode(reader, rows)
        if pa.types.is_null(values.type):
            return values
        return pa.compute.if_else(mask, pa.scalar(None, values.type), values)

    return nullable


def _lists(decode: _Decode) -> _Decode:
    def lists(reader: Reader, rows: int) -> pa.Array:
        ends = np.frombuffer(reader.exactly(8 * rows), "<u8")
        values = decode(reader, int(ends[-1]) if rows else 0)
        offsets = np.zeros(rows + 1, np.int32)
        offsets[1:] = ends
        # Arrays are never NULL in ClickHouse: the empty one stands for it.
        empty = np.diff(offsets) == 0
        return pa.ListArray.from_arrays(pa.array(offsets), values, mask=pa.array(empty))

    return lists


def _structs(kinds: list[str]) -> _Decode:
    decoders = [_decoder(kind) for kind in kinds]

    def structs(reader: Reader, rows: int) -> pa.Array:
        arrays: list[Any] = [decode(reader, rows) for decode in decoders]
        return pa.StructArray.from_arrays(arrays, [str(i + 1) for i in range(len(arrays))])

    return structs


def _enum(inner: str, width: int) -> _Decode:
    words = {int(number): word for word, number in re.findall(r"'((?:[^'\\]|\\.)*)' = (-?\d+)", inner)}

    def enum(reader: Reader, rows: int) -> pa.Array:
        numbers = np.frombuffer(reader.exactly(width * rows), f"<i{width}").tolist()
        return pa.array([words.get(number) for number in numbers], pa.string())

    return enum


def _low_cardinality(inner: str) -> _Decode:
    nullable = inner.startswith("Nullable(")
    decode = _decoder(inner[len("Nullable(") : -1] if nullable else inner)

    def low_cardinality(reader: Reader, rows: int) -> pa.Array:
        if rows == 0:
            return decode(reader, 0)
        reader.exactly(8)  # the version, 1
        flags = int.from_bytes(reader.exactly(8), "little")
        words = decode(reader, int.from_bytes(reader.exactly(8), "little"))
        count = int.from_bytes(reader.exactly(8), "little")
        width = 1 << (flags & 0xFF)
        places = np.frombuffer(reader.exactly(width * count), f"<u{width}")
        made = words.take(pa.array(places))
        if nullable:  # word 0 is NULL
            made = pa.compute.if_else(pa.array(places == 0), pa.scalar(None, made.type), made)
        return made

    return low_cardinality

"""The columns of snapshots as Arrow: many frames of one schema become one array, without a loop over rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from bpfleet.wire import Column
from bpfleet.wire.records import Array

__all__ = ["arrow_column", "arrow_type", "column_bytes", "key_rest", "text_array"]

_TYPES = {
    "u8": pa.uint8(),
    "u16": pa.uint16(),
    "u32": pa.uint32(),
    "u64": pa.uint64(),
    "s8": pa.int8(),
    "s16": pa.int16(),
    "s32": pa.int32(),
    "s64": pa.int64(),
    "f32": pa.float32(),
    "f64": pa.float64(),
    "bool": pa.bool_(),
    "char": pa.string(),
    "bytes": pa.string(),
}
_TEXTS = ("char", "bytes")
_HEX = np.frombuffer("".join(f"{byte:02x}" for byte in range(256)).encode(), np.uint8).reshape(256, 2)

Bytes = npt.NDArray[np.uint8]


def arrow_type(column: Column) -> pa.DataType:
    """How the column's values are typed: numbers as such, text and bytes as strings, arrays as lists."""
    base = _TYPES[column.type]
    return base if column.count is None or column.type in _TEXTS else pa.list_(base)


def column_bytes(arrays: Sequence[Array]) -> bytes:
    """The bytes of one column of several snapshots, one after another."""
    try:
        return b"".join(arrays)  # type: ignore[arg-type]  # NumPy's arrays are buffers
    except TypeError:  # one is strided
        return b"".join([array.tobytes() for array in arrays])


def arrow_column(column: Column, raw: bytes) -> pa.Array:
    """The values of one column, of as many rows as `raw` has.

    `char` is text up to the first NUL, with U+FFFD for what is not UTF-8; `bytes` are hex.
    """
    size = column.dtype.itemsize
    rows = len(raw) // size
    if column.type == "char":
        return _texts(raw, size) if _is_plain(raw, size) else text_array(_matrix(raw, size))
    if column.type == "bytes":
        digits = _HEX[np.frombuffer(raw, np.uint8)].reshape(-1)
        return _strings(digits, np.full(rows, 2 * size, np.int64))
    values = _numbers(column, raw)
    if column.count is None:
        return values
    offsets = np.arange(rows + 1, dtype=np.int32) * np.int32(column.count)
    return pa.ListArray.from_arrays(pa.array(offsets), values)


def _matrix(raw: bytes, size: int) -> Bytes:
    return np.frombuffer(raw, np.uint8).reshape(-1, size)


def _is_plain(raw: bytes, size: int) -> bool:
    """Whether all texts are ASCII with nothing but NUL behind the first NUL, as nearly always."""
    if not raw.isascii():
        return False
    is_nul = np.frombuffer(raw, np.uint8) == 0
    goes_on = is_nul[:-1] > is_nul[1:]
    goes_on[size - 1 :: size] = False  # from one text to the next
    return not goes_on.any()


def _texts(raw: bytes, size: int) -> pa.Array:
    """Strings of texts that are plain, a third of the time that `text_array` takes."""
    kind = pa.binary(size)
    fixed = pa.FixedSizeBinaryArray.from_buffers(kind, len(raw) // size, [None, pa.py_buffer(raw)])
    return pc.ascii_rtrim(fixed.cast(pa.binary()).cast(pa.string()), "\0")


def _numbers(column: Column, raw: bytes) -> pa.Array:
    if column.type == "bool":
        return pa.array(np.frombuffer(raw, np.uint8) != 0)
    kind = _TYPES[column.type]
    return pa.Array.from_buffers(kind, len(raw) * 8 // kind.bit_width, [None, pa.py_buffer(raw)])


def text_array(texts: Bytes) -> pa.Array:
    """One string per row of a matrix of bytes: up to the first NUL, U+FFFD for what is not UTF-8."""
    rows, size = texts.shape
    nul = texts == 0
    lengths = np.where(nul.any(axis=1), nul.argmax(axis=1), size)
    if texts.size == 0 or not (texts & 0x80).any():
        return _strings(texts[np.arange(size) < lengths[:, None]], lengths)
    # With a NUL behind each text all are decoded at once: no sequence of bytes goes on across one.
    ended = np.zeros((rows, size + 1), np.uint8)
    ended[:, :size] = texts
    joined = ended[np.arange(size + 1) <= lengths[:, None]].tobytes()
    decoded = np.frombuffer(joined.decode("utf-8", "replace").encode(), np.uint8)
    ends = np.flatnonzero(decoded == 0)
    return _strings(decoded[decoded != 0], np.diff(ends, prepend=-1) - 1)


def _strings(data: Bytes, lengths: npt.NDArray[np.int64]) -> pa.Array:
    offsets = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    return pa.StringArray.from_buffers(len(lengths), pa.py_buffer(offsets), pa.py_buffer(data))


def key_rest(columns: Sequence[Column], raws: Sequence[bytes]) -> npt.NDArray[np.uint64] | None:
    """For each row 0 where its key columns as text tell it apart, else a number made of their bytes.

    Keys are the same if their bytes are (docs/wire.md), and text leaves out what follows a NUL or is no
    UTF-8. None where that is so of no row. `raws` has the bytes of each column.
    """
    rest: npt.NDArray[np.uint64] | None = None
    for column, raw in zip(columns, raws, strict=True):
        size = column.dtype.itemsize
        if column.part != "key" or column.type != "char" or _is_plain(raw, size):
            continue
        texts = _matrix(raw, size)
        nul = texts == 0
        unclear = (np.logical_or.accumulate(nul, axis=1) & ~nul).any(axis=1) | (texts & 0x80).any(axis=1)
        rows = np.flatnonzero(unclear)
        if rest is None:
            rest = np.zeros(len(texts), np.uint64)
        mixed = rest[rows]
        for at in range(size):  # FNV-1a, a column of bytes at a time
            mixed = (mixed ^ texts[rows, at]) * np.uint64(0x100000001B3)
        rest[rows] = mixed | np.uint64(1)
    return rest

"""Records to bytes. A snapshot's columns are copied once: from the kernel's rows into the frame.

What is made here every decoder with the usual `Limits` takes: a schema that none would take is an error,
texts that are too long are cut, large snapshots are sent in parts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgpack
import numpy as np
import numpy.typing as npt

from bpfleet.errors import WireError
from bpfleet.wire.decode import Decoder, Limits
from bpfleet.wire.fitting import ROW_BYTES
from bpfleet.wire.records import VERSION, Gap, Origin, Schema, Snapshot, Status

__all__ = [
    "FRAME_BYTES",
    "Frame",
    "compress",
    "encode_gap",
    "encode_schema",
    "encode_snapshot",
    "encode_status",
]

FRAME_BYTES = 1 << 20
"""The largest frame made, in bytes, unless one row is larger; larger snapshots are sent in parts."""

_LIMITS = Limits()
_SLACK = 32
"""What `part`, `parts`, `rows`, `seq` and the array's header may grow by over the smallest head."""
_BIN_HEADER = 5
_CUT = " … (cut)"


@dataclass(frozen=True, slots=True)
class Frame:
    """One record as bytes, with what delivery must know without decoding it."""

    kind: str
    """schema, snapshot, gap or status."""
    seq: int
    """0 for a schema, which is sent whenever a sink needs it."""
    data: bytes | memoryview
    schema: Frame | None = None
    """The schema that a snapshot needs, as a frame."""


def _pack(kind: str, origin: Origin | None, fields: dict[str, Any]) -> bytes:
    # `v` comes first: it is what a file of records is known by.
    record: dict[str, Any] = {"v": VERSION, "kind": kind}
    if origin is not None:
        record |= {"agent": origin.agent, "host": origin.host, "boot": origin.boot, "run": origin.run}
    # File names in errors may hold bytes that are not UTF-8 (surrogates in a str).
    packed: bytes = msgpack.packb(record | fields, unicode_errors="replace")
    return packed


def encode_schema(schema: Schema) -> Frame:
    """The schema record; raises WireError naming collector, map and column where no decoder would take it."""
    fields = {
        "id": schema.id,
        "collector": schema.collector,
        "version": schema.version,
        "map": schema.map,
        "help": schema.help,
        "columns": [column.to_plain() for column in schema.columns],
    }
    data = _pack("schema", None, fields)
    where = f"collector {schema.collector!r}, map {schema.map!r}"
    remedy = "change the map's fields, or leave the map out"
    try:
        Decoder(_LIMITS).decode(data, where=where)
    except WireError as error:
        raise WireError(f"the schema can't be sent: {error.what}", where=error.where, remedy=remedy) from None
    if _row_bytes(schema) > ROW_BYTES:
        raise WireError(
            f"one row has {_row_bytes(schema)} bytes, a frame takes {ROW_BYTES}", where=where, remedy=remedy
        )
    return Frame("schema", 0, data)


def encode_gap(gap: Gap) -> Frame:
    """The gap record; a reason or sink's name beyond 255 bytes is cut."""
    fields = {
        "seq": gap.seq,
        "first": gap.first,
        "last": gap.last,
        "count": gap.count,
        "reason": _cut(gap.reason, 255),
        "sink": _cut(gap.sink, 255),
        "t1": gap.t1,
    }
    return Frame("gap", gap.seq, _pack("gap", gap.origin, fields))


def encode_status(status: Status) -> Frame:
    """The status record; texts beyond the limit are cut, numbers that are not finite become nil."""
    head = {"seq": status.seq, "t1": status.t1, "wall_offset": status.wall_offset}
    # The head wins: nothing in a body may pass for it.
    body = {key: _sendable(value) for key, value in status.body.items()}
    return Frame("status", status.seq, _pack("status", status.origin, head | _without(body, head)))


def _without(body: dict[str, Any], head: dict[str, int]) -> dict[str, Any]:
    taken = {"v", "kind", "agent", "host", "boot", "run", *head}
    return {key: value for key, value in body.items() if key not in taken}


def _sendable(value: Any) -> Any:
    """`value` as decoders take it: one error with an endless log must not cost the whole status."""
    if isinstance(value, str):
        return _cut(value, _LIMITS.text_bytes)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {_cut(str(key), 255): _sendable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_sendable(item) for item in value]
    return value


def _cut(text: str, most: int) -> str:
    raw = text.encode("utf-8", "replace")
    if len(raw) <= most:
        return text
    return raw[: most - len(_CUT.encode())].decode("utf-8", "ignore") + _CUT


def encode_snapshot(snapshot: Snapshot, schema: Frame, *, most: int = FRAME_BYTES) -> Iterator[Frame]:
    """The snapshot as one frame, or as several of at most `most` bytes (4 MiB where `most` is more).

    All parts but the last have the same number of rows. A row that does not fit is a frame of its own, which
    is larger. Each part takes a seq of its own, counted up from `snapshot.seq`. `schema` is the encoded
    `snapshot.schema`. The columns are read while frames are taken, so take them before the next read of the
    map. Raises ValueError where a column is not as the schema says.
    """
    _check_columns(snapshot)
    columns = len(snapshot.schema.columns)
    room = min(most, _LIMITS.frame_bytes) - len(_head(snapshot, 0, 1, 0)) - _SLACK - _BIN_HEADER * columns
    rows_per_part = max(1, room // max(1, _row_bytes(snapshot.schema)))
    parts = max(1, -(-snapshot.rows // rows_per_part))
    for part in range(parts):
        start = part * rows_per_part
        stop = min(snapshot.rows, start + rows_per_part)
        yield Frame("snapshot", snapshot.seq + part, _part(snapshot, part, parts, start, stop), schema)


def _row_bytes(schema: Schema) -> int:
    return sum(column.dtype.itemsize for column in schema.columns)


def _check_columns(snapshot: Snapshot) -> None:
    """numpy would stretch, cut or convert what does not fit, without a word."""
    for column, array in zip(snapshot.schema.columns, snapshot.columns, strict=True):
        dtype = column.dtype
        if array.dtype != dtype.base or array.shape != (snapshot.rows, *dtype.shape):
            raise ValueError(
                f"column {column.name!r} of {snapshot.rows} rows is to be {dtype}, "
                f"it is {array.dtype} of shape {array.shape}"
            )


def _head(snapshot: Snapshot, part: int, parts: int, rows: int) -> bytes:
    """The record up to the value of its last field, `columns`."""
    fields = {
        "schema": snapshot.schema.id,
        "collector": snapshot.schema.collector,
        "version": snapshot.schema.version,
        "map": snapshot.schema.map,
        "generation": snapshot.generation,
        "seq": snapshot.seq + part,
        "t0": snapshot.t0,
        "t1": snapshot.t1,
        "wall_offset": snapshot.wall_offset,
        "method": snapshot.method,
        "complete": snapshot.complete,
        "losses": dict(snapshot.losses),
        "entries": snapshot.entries,
        "max_entries": snapshot.max_entries,
        "part": part,
        "parts": parts,
        "rows": rows,
        "columns": None,
    }
    # The nil is one byte; in its place the columns are written where they end up.
    return _pack("snapshot", snapshot.origin, fields)[:-1]


def _part(snapshot: Snapshot, part: int, parts: int, start: int, stop: int) -> memoryview:
    rows = stop - start
    columns = snapshot.schema.columns
    head = _head(snapshot, part, parts, rows) + _array_header(len(columns))
    headers = [_bin_header(column.dtype.itemsize * rows) for column in columns]
    size = len(head) + sum(map(len, headers)) + rows * _row_bytes(snapshot.schema)
    frame = np.empty(size, np.uint8)
    at = _put(frame, 0, head)
    for column, array, header in zip(columns, snapshot.columns, headers, strict=True):
        at = _put(frame, at, header)
        place = np.ndarray((rows,), column.dtype, frame, at)
        place[...] = array[start:stop]
        at += place.nbytes
    return frame.data.toreadonly()


def _put(frame: npt.NDArray[np.uint8], at: int, data: bytes) -> int:
    frame[at : at + len(data)] = np.frombuffer(data, np.uint8)
    return at + len(data)


def _array_header(count: int) -> bytes:
    return bytes([0x90 | count]) if count < 16 else b"\xdc" + count.to_bytes(2, "big")


def _bin_header(size: int) -> bytes:
    if size < 1 << 8:
        return b"\xc4" + size.to_bytes(1, "big")
    if size < 1 << 16:
        return b"\xc5" + size.to_bytes(2, "big")
    return b"\xc6" + size.to_bytes(4, "big")


def compress(data: bytes | memoryview, level: int = 3) -> bytes:
    """`data` as one zstd frame that says its content size; `decode` takes it as it takes plain frames."""
    import zstandard  # only where a sink asks

    return zstandard.ZstdCompressor(level=level, write_content_size=True).compress(data)

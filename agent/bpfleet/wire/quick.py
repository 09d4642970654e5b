"""The usual snapshot, decoded in a tenth of the time: same limits, same answer, or none.

An aggregator decodes thousands of snapshots a second, nearly all of them as `wire.encode` writes them: with
all the fields of docs/wire.md and no other. msgspec reads those into a struct in C, and checks types as it
goes. What it would let pass is checked here, or excluded by the form:

- A key that comes twice: the map has as many entries as there are fields, and each field is required.
- Containers of endless size: there are two, `columns` (bounded before it is made) and `losses` (taken as raw
  bytes, which the strict reader unpacks).
- Lengths of texts in bytes, ranges, sums: below.

Whatever is not the usual, or wrong in any way, is None: the strict path decodes it, or says what is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta

from bpfleet.errors import WireError
from bpfleet.wire.fields import Fields
from bpfleet.wire.records import Origin, Schema, Snapshot
from bpfleet.wire.unpack import Limits, unpack

__all__ = ["Known", "quick_snapshot", "usual_limits"]

_U64 = Annotated[int, Meta(ge=0)]
_FIELDS = 24
_BEGINNING = b"\xde" + _FIELDS.to_bytes(2, "big")
_MOST_COLUMNS = 512
_MOST_PARTS = 1 << 20
_S64_HIGH = (1 << 63) - 1
_REMEMBERED_LOSSES = 64
_LONGEST_LOSSES = 256


class _Usual(msgspec.Struct, forbid_unknown_fields=True):
    v: int
    kind: str
    agent: str
    host: str
    boot: str
    run: _U64
    schema: str
    collector: str
    version: str
    map: str
    generation: _U64
    seq: _U64
    t0: _U64
    t1: _U64
    wall_offset: int
    method: str
    complete: bool
    losses: msgspec.Raw
    entries: _U64
    max_entries: _U64
    part: _U64
    parts: _U64
    rows: _U64
    columns: Annotated[list[memoryview], Meta(max_length=_MOST_COLUMNS)]


assert len(_Usual.__struct_fields__) == _FIELDS
_decode = msgspec.msgpack.Decoder(_Usual).decode
_NO_SCHEMA: tuple[Schema | None, int] = (None, 0)
_METHODS = frozenset(["mmap", "walk", "batch", "key"])


class Known:
    """What one stream repeats in each snapshot, checked once: who speaks, and counts of losses."""

    __slots__ = ("_losses", "_origin")

    def __init__(self) -> None:
        self._origin: Origin | None = None
        self._losses: dict[bytes, dict[str, int]] = {}

    def origin(self, head: _Usual) -> Origin | None:
        """The origin, the same object as long as it is the same."""
        one = self._origin
        if (
            one is None
            or one.agent != head.agent
            or one.boot != head.boot
            or one.run != head.run
            or one.host != head.host
        ):
            plain = {"agent": head.agent, "host": head.host, "boot": head.boot, "run": head.run}
            try:
                one = self._origin = Fields(plain, "", Limits()).origin()
            except WireError:
                return None
        return one

    def losses(self, raw: bytes, limits: Limits) -> dict[str, int] | None:
        """The counts that `raw` is."""
        found = self._losses.get(raw)
        if found is None:
            try:
                found = Fields({"losses": unpack(memoryview(raw), limits, "")}, "", limits).counts("losses")
            except WireError:
                return None
            if len(raw) <= _LONGEST_LOSSES:
                if len(self._losses) >= _REMEMBERED_LOSSES:
                    self._losses.clear()
                self._losses[raw] = found
        return found


def usual_limits(limits: Limits) -> bool:
    """Whether the checks here are made for these limits; how much a decoder remembers is not theirs."""
    usual = Limits()
    return limits.frame_bytes <= usual.frame_bytes and limits == replace(
        usual, frame_bytes=limits.frame_bytes, schemas=limits.schemas, schema_bytes=limits.schema_bytes
    )


def quick_snapshot(
    view: memoryview, schemas: Mapping[str, tuple[Schema, int]], known: Known, limits: Limits
) -> Snapshot | None:
    """The snapshot that `view` (not compressed, within the limit) is; else None: ask the strict path."""
    if view[:3] != _BEGINNING:
        return None
    try:
        head = _decode(view)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None
    schema, _ = schemas.get(head.schema, _NO_SCHEMA)
    rows, part, parts = head.rows, head.part, head.parts
    if (
        schema is None
        or head.v != 1
        or head.kind != "snapshot"
        or head.collector != schema.collector
        or head.map != schema.map
        or head.version != schema.version
        or len(head.columns) != len(schema.columns)
        or rows > limits.frame_bytes
        or not 1 <= parts <= _MOST_PARTS
        or part >= parts
        or head.seq < part
        or head.t1 < head.t0
        or not -_S64_HIGH - 1 <= head.wall_offset <= _S64_HIGH
        or head.method not in _METHODS
    ):
        return None
    origin = known.origin(head)
    losses = known.losses(bytes(head.losses), limits)
    if origin is None or losses is None:
        return None
    shape, columns = (rows,), []
    for dtype, data in zip(schema.dtypes, head.columns, strict=True):
        if len(data) != rows * dtype.itemsize:
            return None
        columns.append(np.ndarray(shape, dtype, data))
    return Snapshot(
        schema=schema,
        origin=origin,
        generation=head.generation,
        seq=head.seq,
        t0=head.t0,
        t1=head.t1,
        wall_offset=head.wall_offset,
        rows=rows,
        columns=columns,
        method=head.method,
        complete=head.complete,
        entries=head.entries,
        max_entries=head.max_entries,
        losses=losses,
        part=part,
        parts=parts,
    )

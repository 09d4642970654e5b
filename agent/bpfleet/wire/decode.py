"""Bytes to records, from peers that are not trusted.

`unpack` bounds what a frame may hold, `fields` checks each type; here a record's parts are checked against
each other: columns against their schema, a schema against its id. What is wrong is a WireError.
"""

from __future__ import annotations

import sys
from collections import OrderedDict

import numpy as np

from bpfleet.errors import WireError
from bpfleet.wire.fields import S64, Fields
from bpfleet.wire.quick import Known, quick_snapshot, usual_limits
from bpfleet.wire.records import (
    VERSION,
    Array,
    Column,
    Gap,
    Record,
    Schema,
    Snapshot,
    Status,
    column_dtype,
)
from bpfleet.wire.status_body import checked_body
from bpfleet.wire.unpack import Limits, plain_bytes, unpack

__all__ = ["Decoder", "Limits", "UnknownSchema", "decode", "schema_memory"]

_BASES = frozenset(
    ["u8", "u16", "u32", "u64", "s8", "s16", "s32", "s64", "f32", "f64", "bool", "char", "bytes"]
)
_MOST_PARTS = 1 << 20


class UnknownSchema(WireError):
    """Raised when a snapshot names a schema that has not been seen; ask for it with its `schema_id`."""

    def __init__(self, schema_id: str, where: str) -> None:
        super().__init__(
            f"the snapshot needs schema {schema_id}, which has not been seen",
            where=where,
            remedy="read the stream from its beginning, or ask the agent for the schema",
        )
        self.schema_id = schema_id


class Decoder:
    """Decodes the frames of one stream, remembering its schemas. For one thread at a time."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._schemas: OrderedDict[str, tuple[Schema, int]] = OrderedDict()
        self._schema_bytes = 0
        self._quick = Known() if usual_limits(self.limits) else None

    @property
    def schema_bytes(self) -> int:
        """Memory that the remembered schemas take, in bytes."""
        return self._schema_bytes

    def decode(self, data: bytes | bytearray | memoryview, *, where: str = "frame") -> Record:
        """The record that `data` is; raises WireError (UnknownSchema for a snapshot without its schema).

        A snapshot's arrays are read-only views on `data`, or on what it decompresses to, and keep it alive:
        copy what is to outlive it. `data` must not change meanwhile.
        """
        view = plain_bytes(data, self.limits, where)
        if self._quick is not None:
            snapshot = quick_snapshot(view, self._schemas, self._quick, self.limits)
            if snapshot is not None:
                self._schemas.move_to_end(snapshot.schema.id)
                return snapshot
        fields = Fields(unpack(view, self.limits, where), where, self.limits)
        if fields.integer("v", 0) != VERSION:
            raise fields.wrong("v", f"wire format {VERSION}")
        kind = fields.text("kind")
        if kind == "snapshot":
            return _snapshot(fields, self._schema_of(fields))
        if kind == "schema":
            schema = _schema(fields)
            self.learn(schema, where=where)
            return schema
        if kind == "gap":
            return _gap(fields)
        if kind == "status":
            return _status(fields)
        raise fields.wrong("kind", "schema, snapshot, gap or status")

    def _schema_of(self, fields: Fields) -> Schema:
        schema_id = fields.hex_id("schema")
        if schema_id not in self._schemas:
            raise UnknownSchema(schema_id, fields.where)
        self._schemas.move_to_end(schema_id)
        return self._schemas[schema_id][0]

    def learn(self, schema: Schema, cost: int | None = None, *, where: str = "schema") -> None:
        """Remember a schema that some decoder has decoded; WireError where it is beyond the limits.

        `cost` is what `schema_memory` says of it, for who teaches it to thousands of decoders.
        """
        if cost is None:
            cost = schema_memory(schema)
        if cost > self.limits.schema_bytes:
            raise WireError(
                f"a schema of {cost} bytes in memory, the limit is {self.limits.schema_bytes}", where=where
            )
        self._forget(schema.id)
        self._schemas[schema.id] = schema, cost
        self._schema_bytes += cost
        while len(self._schemas) > self.limits.schemas or self._schema_bytes > self.limits.schema_bytes:
            self._forget(next(iter(self._schemas)))

    def _forget(self, schema_id: str) -> None:
        _, cost = self._schemas.pop(schema_id, (None, 0))
        self._schema_bytes -= cost


def decode(data: bytes | bytearray | memoryview, schemas: Decoder | None = None) -> Record:
    """One record; for a snapshot give the `Decoder` that has seen its schema."""
    return (schemas or Decoder()).decode(data)


def schema_memory(schema: Schema) -> int:
    """Bytes that a schema takes, counting every text as if nobody else held it."""
    texts = [schema.collector, schema.version, schema.map, schema.help, schema.id]
    for column in schema.columns:
        texts += (column.name, column.part, column.type, column.meaning, column.unit, column.help)
    objects = sys.getsizeof(schema) + sys.getsizeof(schema.columns) + sum(map(sys.getsizeof, schema.columns))
    return objects + sum(map(sys.getsizeof, texts))


def _schema(fields: Fields) -> Schema:
    if not 0 < len(fields.array("columns")) <= fields.limits.columns:
        raise fields.wrong("columns", f"1 to {fields.limits.columns} columns")
    columns = tuple(_column(inner) for inner in fields.mappings("columns"))
    if len({column.name for column in columns}) != len(columns):
        raise fields.wrong("columns", "names that differ")
    schema = Schema(
        fields.name("collector"),
        fields.text("version", 255),
        fields.name("map"),
        fields.text("help"),
        columns,
        fields.hex_id("id"),
    )
    if schema.id != schema.content_id():
        raise fields.wrong("id", f"{schema.content_id()}, the id of its content")
    return schema


def _column(fields: Fields) -> Column:
    base = fields.text("type")
    if base not in _BASES:
        raise fields.wrong("type", "a type of docs/wire.md")
    most = fields.limits.element_bytes
    count = fields.integer("count", 1, most) if fields.has("count") else None
    if column_dtype(base, count).itemsize > most:
        raise fields.wrong("count", f"at most {most} bytes a row")
    part = fields.text("part")
    if part not in ("key", "value"):
        raise fields.wrong("part", '"key" or "value"')
    return Column(
        fields.name("name"),
        part,
        base,
        count,
        fields.text("meaning", 64),
        fields.text("unit", 64),
        fields.text("help"),
    )


def _snapshot(fields: Fields, schema: Schema) -> Snapshot:
    for key, value in (("collector", schema.collector), ("map", schema.map), ("version", schema.version)):
        if fields.text(key) != value:
            raise fields.wrong(key, f"{value!r}, as its schema says")
    raw = fields.array("columns")
    if len(raw) != len(schema.columns):
        raise fields.wrong("columns", f"{len(schema.columns)} columns")
    # A row has at least one byte, so a frame bounds its rows too.
    rows = fields.integer("rows", 0, fields.limits.frame_bytes)
    parts = fields.integer("parts", 1, _MOST_PARTS)
    part = fields.integer("part", 0, parts - 1)
    t0 = fields.integer("t0")
    return Snapshot(
        schema=schema,
        origin=fields.origin(),
        generation=fields.integer("generation"),
        seq=fields.integer("seq", part),
        t0=t0,
        t1=fields.integer("t1", t0),
        wall_offset=fields.integer("wall_offset", *S64),
        rows=rows,
        columns=[_array(c, data, rows, fields) for c, data in zip(schema.columns, raw, strict=True)],
        method=fields.text("method", 64),
        complete=fields.flag("complete"),
        entries=fields.integer("entries"),
        max_entries=fields.integer("max_entries"),
        losses=fields.counts("losses"),
        part=part,
        parts=parts,
    )


def _array(column: Column, data: object, rows: int, fields: Fields) -> Array:
    dtype = column.dtype
    if not isinstance(data, memoryview) or len(data) != rows * dtype.itemsize:
        raise WireError(
            f"column {column.name!r}: expected a bin of {rows * dtype.itemsize} bytes ({rows} rows)",
            where=fields.where,
        )
    return np.ndarray((rows,), dtype, data)


def _gap(fields: Fields) -> Gap:
    first = fields.integer("first")
    last = fields.integer("last", first)
    return Gap(
        origin=fields.origin(),
        seq=fields.integer("seq"),
        first=first,
        last=last,
        count=fields.integer("count", 1, last - first + 1),
        reason=fields.text("reason", 255),
        sink=fields.text("sink", 255),
        t1=fields.integer("t1"),
    )


def _status(fields: Fields) -> Status:
    return Status(
        origin=fields.origin(),
        seq=fields.integer("seq"),
        t1=fields.integer("t1"),
        wall_offset=fields.integer("wall_offset", *S64),
        body=checked_body(fields),
    )

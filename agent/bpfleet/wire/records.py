"""The four kinds of record, in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import msgpack
import msgspec
import numpy as np
import numpy.typing as npt

from bpfleet.layout import Leaf

__all__ = [
    "ID_DIGITS",
    "VERSION",
    "Array",
    "Column",
    "Gap",
    "Origin",
    "Record",
    "Schema",
    "Snapshot",
    "Status",
    "column_dtype",
    "columns_of",
]

VERSION = 1
ID_DIGITS = 32

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Origin:
    """Who speaks. Sequence numbers count within (agent, boot, run)."""

    agent: str
    """The agent's persisted uuid."""
    host: str
    boot: str
    """The kernel's boot id."""
    run: int
    """CLOCK_BOOTTIME ns when the agent's supervisor started."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a map: a leaf of its key or value."""

    name: str
    part: str
    """"key" or "value"."""
    type: str
    """u8…u64, s8…s64, f32, f64, bool, char (text) or bytes."""
    count: int | None
    """Elements of an array; None for a scalar."""
    meaning: str
    unit: str = ""
    help: str = ""

    @staticmethod
    def of(leaf: Leaf, part: str) -> Column:
        """The column that `leaf` becomes; where it has no name (a key that is a plain number), its part's."""
        return Column(
            leaf.name or part, part, leaf.base, leaf.count, leaf.meaning.value, leaf.unit, leaf.help
        )

    @property
    def dtype(self) -> np.dtype[Any]:
        """Little-endian numpy type of one row of this column."""
        return column_dtype(self.type, self.count)

    def to_plain(self) -> dict[str, Any]:
        """As it stands in a schema record."""
        return {
            "name": self.name,
            "part": self.part,
            "type": self.type,
            "count": self.count,
            "meaning": self.meaning,
            "unit": self.unit,
            "help": self.help,
        }


_DTYPES = {
    "u8": "<u1",
    "u16": "<u2",
    "u32": "<u4",
    "u64": "<u8",
    "s8": "<i1",
    "s16": "<i2",
    "s32": "<i4",
    "s64": "<i8",
    "f32": "<f4",
    "f64": "<f8",
    "bool": "<u1",
}


def columns_of(key: Iterable[Leaf], value: Iterable[Leaf]) -> tuple[Column, ...]:
    """The columns of a map's key and value leaves, in that order, with names that differ.

    A declared schema has such names already. One derived from an object may not: a value's column whose
    name is taken becomes `value.NAME`.
    """
    columns: list[Column] = []
    taken: set[str] = set()
    for part, leaves in (("key", key), ("value", value)):
        for leaf in leaves:
            column = Column.of(leaf, part)
            while column.name in taken:
                column = replace(column, name=f"{part}.{column.name}")
            taken.add(column.name)
            columns.append(column)
    return tuple(columns)


@lru_cache(maxsize=1024)
def column_dtype(base: str, count: int | None) -> np.dtype[Any]:
    """The little-endian numpy dtype of `count` elements of `base`; KeyError for an unknown base."""
    if base == "char":
        return np.dtype(f"S{count or 1}")
    if base == "bytes":
        return np.dtype(f"V{count or 1}")
    scalar = np.dtype(_DTYPES[base])
    return scalar if count is None else np.dtype((scalar, (count,)))


@dataclass(frozen=True, slots=True)
class Schema:
    """The columns of one map of one collector."""

    collector: str
    version: str
    map: str
    help: str
    columns: tuple[Column, ...]
    id: str = ""
    """32 hex digits: the first half of the SHA-256 of the content; filled in where empty."""
    dtypes: tuple[np.dtype[Any], ...] = field(init=False, compare=False, repr=False)
    """That of one row of each column."""
    row_bytes: int = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not self.id:
            object.__setattr__(self, "id", self.content_id())
        dtypes = tuple(column.dtype for column in self.columns)
        object.__setattr__(self, "dtypes", dtypes)
        object.__setattr__(self, "row_bytes", sum(dtype.itemsize for dtype in dtypes))

    @property
    def is_events(self) -> bool:
        """Whether a row is an event, sent once, and not the state of a key."""
        return any(column.meaning == "event" for column in self.columns)

    def content_id(self) -> str:
        """The id that this content has (docs/wire.md, "Schema id")."""
        content = [
            self.collector,
            self.version,
            self.map,
            self.help,
            [list(column.to_plain().values()) for column in self.columns],
        ]
        packed = msgpack.packb(content, unicode_errors="replace")
        return hashlib.sha256(packed).hexdigest()[:ID_DIGITS]


class Snapshot(msgspec.Struct, frozen=True, kw_only=True, eq=False, gc=False):
    """One read of one map, or one part of it where it is too large for a frame.

    Made thousands of times a second, so a struct of msgspec's: `msgspec.structs.replace` makes a changed
    copy. Arrays have no one answer to ==, and nothing in it can point back at it, which is what `gc` is for.
    """

    schema: Schema
    origin: Origin
    generation: int
    """Changes whenever the program was loaded anew: CLOCK_BOOTTIME ns of the load."""
    seq: int
    t0: int
    """CLOCK_BOOTTIME ns when the read began."""
    t1: int
    """CLOCK_BOOTTIME ns when the read ended."""
    wall_offset: int
    """CLOCK_REALTIME minus CLOCK_BOOTTIME, ns."""
    rows: int
    columns: Sequence[Array]
    """One array per schema column, `rows` long; a column with a count of numbers has a second axis.

    Before encoding strided views over the kernel's bytes, after decoding read-only views on the frame,
    aligned or not."""
    method: str
    """The reading method: mmap, walk, batch or key; drain or pop where it took events out of the map."""
    complete: bool
    """Whether every entry that was there during the whole read is in, or every event since the last read is
    in or counted."""
    entries: int
    """Entries met in the map (all parts together)."""
    max_entries: int
    losses: Mapping[str, int] = msgspec.field(default_factory=dict)
    """Counts by reason: truncated, not_decoded and cut_text of this read, all others since the program was
    loaded (docs/wire.md)."""
    part: int = 0
    parts: int = 1

    def to_columns(self) -> dict[str, Array]:
        """Arrays by column name."""
        return {c.name: a for c, a in zip(self.schema.columns, self.columns, strict=True)}

    def to_rows(self, start: int = 0, stop: int | None = None) -> list[dict[str, Any]]:
        """One dict per row from `start` to before `stop`, of Python values.

        Text ends at its first NUL and has U+FFFD where it is not UTF-8; bytes are hex. A row costs far more
        memory than its bytes in the frame: take large snapshots slice by slice.
        """
        names = [column.name for column in self.schema.columns]
        lists = [_values(c, a[start:stop]) for c, a in zip(self.schema.columns, self.columns, strict=True)]
        return [dict(zip(names, row, strict=True)) for row in zip(*lists, strict=True)]


def _values(column: Column, array: Array) -> list[Any]:
    if column.type == "char":
        return [text.partition(b"\0")[0].decode("utf-8", "replace") for text in array.tolist()]
    if column.type == "bytes":
        return [value.hex() for value in array.tolist()]
    if column.type == "bool":
        array = array.astype(bool)
    return list(array.tolist())


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Records that a sink did not get: those of seq `first` to `last`."""

    origin: Origin
    seq: int
    """That of the record before which the gap is told; a gap takes none of its own."""
    first: int
    last: int
    count: int
    """Records lost; at most last - first + 1."""
    reason: str
    """queue_full, worker_restart, sink_error, refused, or a sink's own word."""
    sink: str
    t1: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The agent's own state."""

    origin: Origin
    seq: int
    t1: int
    wall_offset: int
    body: Mapping[str, Any]
    """`software`, `collectors`, `sinks`, `labels` and what a newer agent adds: see docs/wire.md."""


Record = Schema | Snapshot | Gap | Status

"""What a server can do, as far as the store's SQL depends on it.

Two dialects: `modern` (from 22.3 on: points in time below a second, LowCardinality, codecs, Bool, SQL
functions, views replaced in place) and plain, for what is older, tested on 18.16. Tables that are there
decide before the
version does: a server that was upgraded goes on with the tables that it has.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from bpfleet.errors import StoreError
from bpfleet.wire import Column
from bpfleet_aggregator.stores.clickhouse.literals import text
from bpfleet_aggregator.stores.clickhouse.server import Server, rows_of

__all__ = ["Dialect", "dialect_of"]

_MODERN = (22, 3)
_NUMBERS = {
    "u8": "UInt8",
    "u16": "UInt16",
    "u32": "UInt32",
    "u64": "UInt64",
    "s8": "Int8",
    "s16": "Int16",
    "s32": "Int32",
    "s64": "Int64",
    "f32": "Float32",
    "f64": "Float64",
}
_SHORT = 16
"""Texts up to this long (a comm) are taken to be of few kinds."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """How the store writes its SQL for one server."""

    version: tuple[int, ...]
    modern: bool
    known: frozenset[str] = frozenset()
    """The server's settings for statements."""
    table_settings: frozenset[str] = frozenset()

    @property
    def time(self) -> str:
        """The type of a point in time: microseconds either way, so the bytes are the same."""
        return "DateTime64(6, 'UTC')" if self.modern else "Decimal(18, 6)"

    @property
    def flag(self) -> str:
        """The type of yes and no."""
        return "Bool" if self.modern else "UInt8"

    @property
    def word(self) -> str:
        """The type of a text that comes again and again."""
        return "LowCardinality(String)" if self.modern else "String"

    def compressed(self, kind: str, codec: str) -> str:
        """A column's type with its codec, where there are codecs."""
        return f"{kind} CODEC({codec})" if self.modern else kind

    def day(self, time: str) -> str:
        """What tables are partitioned by, of a point in time: a date, or days since 1970."""
        return f"toDate({time})" if self.modern else f"intDiv(toUInt32({time}), 86400)"

    def hour(self, time: str) -> str:
        """What rows are ordered by before all else."""
        return f"toStartOfHour({time})" if self.modern else f"intDiv(toUInt32({time}), 3600)"

    def seconds_between(self, later: str, earlier: str) -> str:
        """The seconds between two points in time, exact to the microsecond."""
        if self.modern:
            return f"(toUnixTimestamp64Micro({later}) - toUnixTimestamp64Micro({earlier})) / 1e6"
        return f"toFloat64({later} - {earlier})"

    def type_of(self, column: Column) -> str:
        """The type of a map's field as it is stored."""
        if column.type in ("char", "bytes"):
            short = column.type == "char" and (column.count or 1) <= _SHORT
            return self.word if short else "String"
        kind = self.flag if column.type == "bool" else _NUMBERS[column.type]
        return kind if column.count is None else f"Array({kind})"

    def sent(self, kind: str) -> str:
        """The type that an INSERT names for a column of type `kind`."""
        return "String" if kind == "LowCardinality(String)" else kind

    def only(self, **wanted: object) -> Mapping[str, object]:
        """Of the settings those that the server knows."""
        return {name: value for name, value in wanted.items() if name in self.known}


def dialect_of(server: Server, database: str) -> Dialect:
    """Ask the server what it is."""
    (row,) = rows_of(server, "SELECT version() AS version")
    version = tuple(int(part) for part in re.findall(r"\d+", str(row["version"]))[:3])
    if version < (18, 16):
        raise StoreError(
            f"ClickHouse {row['version']} is too old", remedy="18.16 is the oldest that was tried"
        )
    there = rows_of(
        server,
        f"SELECT type FROM system.columns WHERE database = {text(database)}"
        " AND table = 'Snapshots' AND name = 'time'",
    )
    modern = str(there[0]["type"]).startswith("DateTime64") if there else version >= _MODERN
    return Dialect(
        version,
        modern,
        frozenset(str(one["name"]) for one in rows_of(server, "SELECT name FROM system.settings")),
        frozenset(str(one["name"]) for one in rows_of(server, "SELECT name FROM system.merge_tree_settings")),
    )

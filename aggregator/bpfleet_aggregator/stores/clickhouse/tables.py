"""The tables: their columns, what orders and partitions them, and the statements that make them.

Tables begin with a capital letter, relations (views) never do, so no map's name can meet a table's. The same
holds for columns that no question sees.

Each table of records is a ReplacingMergeTree whose sorting key ends in (Spool, SpoolSeq, row): a record that
is stored again has the same key, since all of it comes from the record itself, and the two collapse into one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bpfleet_aggregator.stores.clickhouse.dialect import Dialect
from bpfleet_aggregator.stores.clickhouse.literals import quoted, text
from bpfleet_aggregator.stores.clickhouse.settings import ClickhouseSettings
from bpfleet_aggregator.stores.relations import Relation

__all__ = [
    "COLLECTORS",
    "GAPS",
    "MARKS",
    "SNAPSHOTS",
    "STATUSES",
    "Table",
    "Tables",
    "own_tables",
    "rows_table",
    "spread_name",
]

COLLECTORS, GAPS, MARKS, SNAPSHOTS, STATUSES = "Collectors", "Gaps", "Marks", "Snapshots", "Statuses"

Columns = Mapping[str, str]
"""Type by name; `time` and so on stand for what the dialect says."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table as it is to be."""

    name: str
    columns: Columns
    """The type of each column, with its codec."""
    order: Sequence[str]
    partition: str
    version: str = ""
    """The column that says which of two rows of one key stays; the later one where empty."""
    types: Columns | None = None
    """The type of each column, without codecs."""


_IDENTITY = {"agent": "word", "host": "word", "boot": "word", "run": "UInt64"}
_DELIVERY = {"Spool": "word", "SpoolSeq": "steps", "Received": "time"}
_MAP = {"time": "time", **_IDENTITY, "generation": "UInt64", "t1": "steps", "seq": "steps", "row": "UInt32"}
_OWN: Mapping[str, Columns] = {
    SNAPSHOTS: {
        "time": "time",
        **_IDENTITY,
        "collector": "word",
        "map": "word",
        "relation": "word",
        "Schema": "word",
        "Read": "UInt64",
        "generation": "UInt64",
        "t0": "steps",
        "t1": "steps",
        "seq": "steps",
        "part": "UInt32",
        "parts": "UInt32",
        "rows": "UInt32",
        "entries": "UInt64",
        "max_entries": "UInt64",
        "complete": "flag",
        "method": "word",
        "failed_insert": "Nullable(UInt64)",
        "truncated": "Nullable(UInt64)",
        "losses": "Nullable(String)",  # of all kinds (`stores.losses`); NULL in rows of older releases
        "Size": "UInt32",
        **_DELIVERY,
    },
    GAPS: {
        "time": "time",
        **_IDENTITY,
        "seq": "UInt64",
        "t1": "UInt64",
        "first": "UInt64",
        "last": "UInt64",
        "count": "UInt64",
        "reason": "word",
        "sink": "word",
        **_DELIVERY,
    },
    STATUSES: {
        "time": "time",
        **_IDENTITY,
        "t1": "UInt64",
        "seq": "UInt64",
        "version": "Nullable(String)",
        "kernel": "Nullable(String)",
        "labels": "word",
        "body": "String",
        **_DELIVERY,
    },
    COLLECTORS: {
        "time": "time",
        **_IDENTITY,
        "t1": "UInt64",
        "seq": "UInt64",
        "row": "UInt32",
        "collector": "word",
        "version": "word",
        "state": "word",
        "error": "String",
        "remedy": "String",
        "generation": "Nullable(UInt64)",
        "interval_s": "Nullable(Float64)",
        **_DELIVERY,
    },
}


def own_tables(dialect: Dialect) -> list[Table]:
    """The tables that are no map's."""
    made = [_table(name, columns, dialect) for name, columns in _OWN.items()]
    marks = {"agent": "String", "spool": "String", "seq": "UInt64", "updated": "Date"}
    # By month, so that spools which ended long ago go as a whole; the highest seq of a spool stays.
    return [*made, Table(MARKS, marks, ("agent", "spool"), "toYYYYMM(updated)", "seq", marks)]


def rows_table(relation: Relation, dialect: Dialect) -> Table:
    """The table of a map's rows."""
    fields = {field.name: dialect.type_of(field.column) for field in relation.fields}
    growing = {field.name for field in relation.fields if field.is_growing and field.column.count is None}
    columns = {**_MAP, "Read": "UInt64", "Rest": "UInt64", "Schema": "word", **_DELIVERY}
    return _table(f"Rows_{relation.name}", columns, dialect, fields, growing)


def _table(
    name: str,
    columns: Columns,
    dialect: Dialect,
    fields: Columns | None = None,
    growing: set[str] | None = None,
) -> Table:
    simple = {"time": dialect.time, "word": dialect.word, "flag": dialect.flag, "steps": "UInt64"}
    types = {key: simple.get(kind, kind) for key, kind in columns.items()} | dict(fields or {})
    codecs = {
        "time": dialect.compressed(dialect.time, "Delta(8), ZSTD(1)"),
        "steps": dialect.compressed("UInt64", "Delta(8), ZSTD(1)"),
        "UInt64": dialect.compressed("UInt64", "ZSTD(1)"),
        "String": dialect.compressed("String", "ZSTD(1)"),
    }
    full = {key: codecs.get(kind, simple.get(kind, kind)) for key, kind in columns.items()}
    for key, kind in (fields or {}).items():
        # Rows of one read lie together and have different keys: their counters are no series, so no Delta.
        packed = kind.startswith("Array(") or (growing and key in growing)
        full[key] = dialect.compressed(kind, "ZSTD(1)") if packed else kind
    if name == GAPS:
        # A gap's time is when it was received, another one when it comes again: it can't be in the key.
        return Table(name, full, ("agent", "Spool", "SpoolSeq"), "tuple()", "", types)
    # Not the time itself: seq goes with it, and 18.16 copies a whole column of decimals for each comparison.
    order = [dialect.hour("`time`"), "agent", "Spool", "SpoolSeq"]
    return Table(
        name, full, [*order, *(["row"] if "row" in columns else [])], dialect.day("`time`"), "", types
    )


def spread_name(table: str) -> str:
    """The name of the Distributed table over a table."""
    return f"All_{table}"


class Tables:
    """The statements that make and change tables, for one server or a cluster."""

    def __init__(self, settings: ClickhouseSettings, dialect: Dialect, *, is_spread: bool = False) -> None:
        self._settings = settings
        self._dialect = dialect
        self.is_spread = is_spread
        """Whether each agent's rows are on one of several shards."""
        self.database = quoted(settings.database)
        self.everywhere = f" ON CLUSTER {quoted(settings.cluster)}" if settings.cluster else ""

    def named(self, table: str) -> str:
        """The name, with its database's, of a server's own table, or of a view."""
        return f"{self.database}.{quoted(table)}"

    def data(self, table: str) -> str:
        """What is written to and read from: of all shards together."""
        return self.named(spread_name(table) if self.is_spread else table)

    def create_database(self) -> str:
        """Where it is missing."""
        return f"CREATE DATABASE IF NOT EXISTS {self.database}{self.everywhere}"

    def create(self, table: Table) -> str:
        """Where it is missing."""
        columns = ", ".join(f"{quoted(name)} {kind}" for name, kind in table.columns.items())
        order = ", ".join(one if "(" in one else quoted(one) for one in table.order)
        return (
            f"CREATE TABLE IF NOT EXISTS {self.named(table.name)}{self.everywhere} ({columns})"
            f" ENGINE = {self._engine(table)} PARTITION BY {table.partition} ORDER BY"
            f" ({order}){self._options()}"
        )

    def create_spread(self, table: str) -> str:
        """The Distributed table over all shards, with the columns that the table has by now.

        By the agent alone, so that a record that comes again meets the first one, whichever server takes it.
        """
        cluster = quoted(self._settings.cluster or "")
        return (
            f"CREATE TABLE IF NOT EXISTS {self.named(spread_name(table))}{self.everywhere} AS"
            f" {self.named(table)}"
            f" ENGINE = Distributed({cluster}, {self.database}, {quoted(table)}, cityHash64(agent))"
        )

    def drop_spread(self, table: str) -> str:
        """It holds no row; servers can't add columns to one ON CLUSTER."""
        return f"DROP TABLE IF EXISTS {self.named(spread_name(table))}{self.everywhere}"

    def add_column(self, table: Table, column: str) -> str:
        """One statement for one column: what is there already is refused without harm."""
        return (
            f"ALTER TABLE {self.named(table.name)}{self.everywhere}"
            f" ADD COLUMN {quoted(column)} {table.columns[column]}"
        )

    def drop_partition(self, table: str, partition: str) -> str:
        """A day of a table (or a month of the marks), named as system.parts does."""
        value = partition if partition.isdigit() else text(partition)
        return f"ALTER TABLE {self.named(table)}{self.everywhere} DROP PARTITION {value}"

    def _engine(self, table: Table) -> str:
        arguments = [quoted(table.version)] if table.version else []
        if not self._settings.replicated:
            return f"ReplacingMergeTree({', '.join(arguments)})"
        path = self._settings.replica_path.replace("DATABASE", self._settings.database)
        places = [text(path.replace("TABLE", table.name)), text(self._settings.replica)]
        return f"ReplicatedReplacingMergeTree({', '.join([*places, *arguments])})"

    def _options(self) -> str:
        """What a table is told besides; nothing that this server does not know."""
        wanted = {"fsync_after_insert": 1, "fsync_part_directory": 1} if self._settings.fsync else {}
        known = [f"{key} = {value}" for key, value in wanted.items() if key in self._dialect.table_settings]
        return f" SETTINGS {', '.join(known)}" if known else ""

"""The partition files of a store: opened, begun, removed.

A DuckDB file never shrinks, so what is too old goes by the file.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
import pyarrow as pa

from bpfleet.errors import StoreError
from bpfleet_aggregator.stores.duckdb import engine
from bpfleet_aggregator.stores.duckdb.files import (
    folder_size,
    partition_files,
    partition_name,
    set_aside,
    set_aside_files,
    set_log_aside,
    size_of,
    unlink,
)
from bpfleet_aggregator.stores.duckdb.settings import DuckdbSettings
from bpfleet_aggregator.stores.duckdb.tables import SUMMARIES, arrow_table, data_table, ddl
from bpfleet_aggregator.stores.relations import Recorded, Relations

__all__ = ["Partition", "Partitions"]

_FORMAT = 2
"""Of what is begun. Files of format 1 are read as they are, and take no more records."""
_BEFORE_LOSSES = 1
_LOSSES_BEFORE = (
    "'{' || nullif(concat_ws(',', CASE WHEN failed_insert > 0 THEN '\"failed_insert\":' || failed_insert END,"
    " CASE WHEN truncated > 0 THEN '\"truncated\":' || truncated END), '') || '}'"
)
"""All that a snapshot of format 1 says is lost, as the column `losses` has it."""


@dataclass(slots=True)
class Partition:
    """One file, attached."""

    number: int
    path: Path
    began: int = 0
    """Unix time in ns."""
    form: int = _FORMAT
    tables: set[str] = field(default_factory=set)
    is_empty: bool = True
    """Whether it has no record yet."""
    for_writing: bool = False
    """How it is attached."""

    @property
    def alias(self) -> str:
        """The database's name in SQL."""
        return f"p{self.number}"

    @property
    def is_summed_up(self) -> bool:
        """Whether it has all its summaries."""
        return self.tables.issuperset(SUMMARIES)

    @property
    def takes_more(self) -> bool:
        """Whether records may be added: not where a summary (also one of an older release) would be wrong."""
        return self.form == _FORMAT and self.tables.isdisjoint(SUMMARIES)

    def records(self, table: str) -> str:
        """What selects all rows of a table, in the columns of this release."""
        lacking = table == "snapshots" and self.form == _BEFORE_LOSSES
        return f"SELECT *{f', {_LOSSES_BEFORE} AS losses' if lacking else ''} FROM {self.alias}.{table}"


class Partitions:
    """The files of one folder, oldest first; the last one takes what comes."""

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        folder: Path,
        settings: DuckdbSettings,
        note: Callable[[str], None],
        *,
        writable: bool,
    ) -> None:
        self.all: list[Partition] = []
        self.relations = Relations()
        self._connection = connection
        self._folder = folder
        self._settings = settings
        self._note = note
        self._writable = writable
        self._next = 1
        self.can_go_on = False
        """Whether the current one is open for writing; else a new one is to be begun."""

    @property
    def current(self) -> Partition:
        """The one that takes what comes."""
        return self.all[-1]

    def open(self) -> None:
        """Attach what there is; what is damaged is set aside."""
        self.can_go_on = False
        files = list(partition_files(self._folder))
        for number, path in files:
            self._next = number + 1
            partition = Partition(number, path)
            is_last = number == files[-1][0]
            try:
                whole = self._attach_mended(partition, for_writing=self._writable and is_last)
                if whole and self._writable and not (is_last or partition.is_summed_up):
                    # Its writer was killed before it had summed it up, or was of an older release.
                    engine.detach(self._connection, partition.alias)
                    self._attach(partition, for_writing=True)
            except duckdb.Error as error:
                self._damaged(partition, str(error))
                continue
            if whole:
                self.all.append(partition)
                self.can_go_on = is_last and partition.takes_more
                continue
            engine.detach(self._connection, partition.alias)
            if self._writable:
                unlink(path)  # begun, and nothing stored in it yet, when its writer was killed

    def _attach_mended(self, partition: Partition, *, for_writing: bool) -> bool:
        """As `_attach`; a log that can't be used costs only what is in it."""
        try:
            return self._attach(partition, for_writing=for_writing)
        except duckdb.Error as error:
            engine.detach(self._connection, partition.alias)
            aside = set_log_aside(partition.path) if self._writable and " WAL " in str(error) else None
            if aside is None:
                raise
            self._note(
                f"the log of partition {partition.path} is damaged and was set aside as {aside.name}: "
                f"{_first_line(str(error))}"
            )
            return self._attach(partition, for_writing=for_writing)

    def _attach(self, partition: Partition, *, for_writing: bool) -> bool:
        """Whether it is one that was finished."""
        engine.attach(self._connection, partition.path, partition.alias, for_writing=for_writing)
        partition.for_writing = for_writing
        alias = partition.alias
        tables = self._connection.execute(
            "SELECT table_name FROM duckdb_tables() WHERE database_name = ?", [alias]
        ).fetchall()
        partition.tables = {name for (name,) in tables}
        if "partition" not in partition.tables:
            return False
        made = self._connection.execute(f"SELECT format, began FROM {alias}.partition").fetchall()
        if not made:
            return False
        ((partition.form, partition.began),) = made
        if partition.form not in (_BEFORE_LOSSES, _FORMAT):
            raise StoreError(
                f"the partition is of format {partition.form}, this release writes {_FORMAT}",
                where=str(partition.path),
                remedy="use the release that wrote it, or give the store another path",
            )
        ((partition.is_empty,),) = self._connection.execute(_IS_EMPTY.format(p=alias)).fetchall()
        for row in self._connection.execute(f"SELECT * FROM {alias}.schemas").fetchall():
            self.relations.restore(Recorded(*row))
        return True

    def _damaged(self, partition: Partition, words: str) -> None:
        engine.detach(self._connection, partition.alias)
        what = "left out"
        if self._writable:
            what = f"set aside as {set_aside(partition.path).name}"
        self._note(f"partition {partition.path} is damaged and was {what}: {_first_line(words)}")

    def set_aside(self, partition: Partition, words: str) -> None:
        """Go on without it; where it was the current one another is to be begun."""
        self.can_go_on = self.can_go_on and partition is not self.current
        self.all.remove(partition)
        self._damaged(partition, words)

    def begin(self, carried: Mapping[str, pa.Table]) -> None:
        """A new file, which begins with all that must outlive the files before: `carried`, by table."""
        _roll_back(self._connection)
        number = self._next
        partition = Partition(number, self._folder / partition_name(number), time.time_ns(), for_writing=True)
        alias = partition.alias
        connection = self._connection
        block_size = self._settings.block_size
        engine.attach(connection, partition.path, alias, for_writing=True, block_size=block_size)
        try:
            connection.execute("BEGIN")
            for statement in ddl(alias):
                connection.execute(statement)
            # Never a row at a time: a large fleet has a hundred thousand, and all of it waits.
            for table, rows in (*carried.items(), ("schemas", self._schemas_in_use())):
                connection.register("carried", rows)
                connection.execute(f"INSERT INTO {alias}.{table} SELECT * FROM carried")
                connection.unregister("carried")
            connection.execute(
                f"INSERT INTO {alias}.partition VALUES (?, ?, ?)", [_FORMAT, number, partition.began]
            )
            connection.execute("COMMIT")
        except duckdb.Error:
            _roll_back(connection)
            engine.detach(connection, alias)
            unlink(partition.path)
            raise
        directory = os.open(self._folder, os.O_RDONLY)
        os.fsync(directory)
        os.close(directory)
        self._next = number + 1
        self.all.append(partition)
        self.can_go_on = True

    def _schemas_in_use(self) -> pa.Table:
        tables = set().union(*(partition.tables for partition in self.all))
        rows = [
            (made.schema, made.relation, made.collector, made.version, made.map, made.help, made.columns)
            for made in (placement.recorded() for placement in self.relations.placements())
            if data_table(made.schema) in tables
        ]
        return arrow_table("schemas", rows)

    def is_due(self) -> bool:
        """Whether the current file has taken enough, or taken long enough."""
        if self.current.is_empty:
            return False
        age = (time.time_ns() - self.current.began) / 1e9
        return age > self._settings.partition or size_of(self.current.path) > self._settings.partition_size

    def reopen(self) -> None:
        """Attach the current file anew: from then on it is as the disk has it."""
        current = self.current
        _roll_back(self._connection)
        engine.detach(self._connection, current.alias)
        if not self._attach(current, for_writing=True):
            raise StoreError("the current partition has lost its tables", where=str(current.path))

    def too_many(self) -> list[Partition]:
        """Those that are to go: too old, or what is beyond the limit of size."""
        limit = time.time_ns() - int(self._settings.retention * 1e9)
        old = [one for one, later in zip(self.all, self.all[1:], strict=False) if later.began < limit]
        excess = folder_size(self._folder) - self._settings.size_limit - sum(size_of(one.path) for one in old)
        for one in self.all[len(old) : -1]:
            if excess <= 0:
                break
            excess -= size_of(one.path)
            old.append(one)
        return old

    def remove_set_aside(self) -> None:
        """What was set aside goes by the same bounds, and before anything that can be read."""
        limit = time.time() - self._settings.retention
        for path in set_aside_files(self._folder):
            status = path.stat()
            if status.st_mtime < limit or folder_size(self._folder) > self._settings.size_limit:
                unlink(path)
                self._note(f"{path.name} removed: {status.st_size / 1e6:,.1f} MB, by retention or size_limit")

    def remove(self, partition: Partition) -> None:
        """Let go of a file and delete it; the disk has the room once the last question about it has ended."""
        self.all.remove(partition)
        engine.detach(self._connection, partition.alias)
        size = size_of(partition.path)
        unlink(partition.path)
        self._note(
            f"partition {partition.path.name} removed: {size / 1e6:,.1f} MB, by retention or size_limit"
        )


_IS_EMPTY = (
    "SELECT NOT EXISTS (FROM {p}.snapshots) AND NOT EXISTS (FROM {p}.gaps) AND NOT EXISTS (FROM {p}.statuses)"
)


def _first_line(words: str) -> str:
    return words.partition("\n")[0]


def _roll_back(connection: duckdb.DuckDBPyConnection) -> None:
    with contextlib.suppress(duckdb.Error):  # none is open any more where the error ended it
        connection.execute("ROLLBACK")

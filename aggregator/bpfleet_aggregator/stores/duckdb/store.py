"""The embedded store as the aggregator's committer sees it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from queue import SimpleQueue

import duckdb

from bpfleet.errors import StoreError
from bpfleet.stores import Received, StoreContext
from bpfleet.wire import Gap, Schema, Snapshot
from bpfleet_aggregator.stores.duckdb import engine, summary
from bpfleet_aggregator.stores.duckdb.batch import Batch, Placed
from bpfleet_aggregator.stores.duckdb.damage import Damaged, Search, is_damage
from bpfleet_aggregator.stores.duckdb.files import Lock
from bpfleet_aggregator.stores.duckdb.partitions import Partition, Partitions
from bpfleet_aggregator.stores.duckdb.server import Server
from bpfleet_aggregator.stores.duckdb.settings import DuckdbSettings
from bpfleet_aggregator.stores.duckdb.state import Marks, State
from bpfleet_aggregator.stores.duckdb.tables import data_ddl, data_table
from bpfleet_aggregator.stores.duckdb.views import Views
from bpfleet_aggregator.stores.placing import RowStarts
from bpfleet_aggregator.stores.relations import Placement

__all__ = ["DuckdbStore"]

_PATIENCE = 10.0
"""Seconds to wait at the start for a reader that has a partition open."""


class DuckdbStore:
    """Keeps records in partition files, and answers questions on a socket beside them."""

    def __init__(self, settings: DuckdbSettings, context: StoreContext) -> None:
        self._settings = settings
        self._folder = settings.folder(context)
        self._note = context.note
        self._lock = Lock(self._folder)
        self._connection = engine.connect(self._folder, settings)
        self._partitions = Partitions(self._connection, self._folder, settings, context.note, writable=True)
        self._views = Views(self._connection)
        self._state = State()
        self._starts = RowStarts()
        self._is_unsure = False
        self._is_closed = False
        self._suspects: SimpleQueue[Damaged] = SimpleQueue()
        """Damaged partitions that questions have met."""
        self._damaged: dict[int, Damaged] = {}
        """By number: those still to be set aside."""
        try:
            self._open()
            partitions = self._partitions
            self._search = Search(
                self._connection, self._folder, lambda: list(partitions.all), self._suspects.put
            )
            self._server = Server(self._connection, self._folder, settings, self._search)
        except BaseException:
            self._connection.close()
            self._lock.close()
            raise

    def _open(self) -> None:
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                self._partitions.open()
                break
            except engine.Busy:
                if time.monotonic() > deadline:
                    raise
                for partition in self._partitions.all:
                    engine.detach(self._connection, partition.alias)
                self._partitions.all.clear()
                time.sleep(0.1)
        partitions = self._partitions
        try:
            self._load()
            if not partitions.can_go_on:
                self._begin()
        except duckdb.Error as error:
            raise _not_now(error, str(self._folder)) from None
        self._refresh()

    def _load(self) -> None:
        """From the newest partition that can be read.

        Where that is not the newest there was, its records are lost, and the marks with them: what agents
        still have of those they send again, to be stored once.
        """
        partitions = self._partitions
        while partitions.all:
            try:
                self._state.load(self._connection, partitions.current)
                return
            except duckdb.Error as error:
                if not is_damage(error):
                    raise
                partitions.set_aside(partitions.current, str(error))

    def marks(self, spools: Sequence[tuple[str, str]]) -> Sequence[int]:
        """The highest durable seq of each (agent, spool), 0 where none is."""
        return [self._state.marks.get(spool, 0) for spool in spools]

    def schemas(self) -> Sequence[Schema]:
        """Those that have tables here."""
        return [placement.schema for placement in self._partitions.relations.placements()]

    def commit(self, batch: Sequence[Received]) -> None:
        """Make `batch` durable, or raise StoreError and keep nothing of it."""
        try:
            self._make_sure()
            if self._partitions.is_due():
                self._begin()
                self._enforce()
            self._commit(batch)
        except duckdb.Error as error:
            self._is_unsure = True
            self._state.streams.forget()
            if is_damage(error) and self._partitions.all:
                self._suspects.put(Damaged(self._partitions.current, str(error)))
            raise _not_now(error, str(self._folder)) from None
        except OSError as error:
            raise StoreError(
                f"the store's folder can't be used: {error.strerror}", where=str(self._folder)
            ) from None

    def _make_sure(self) -> None:
        """Set aside what is damaged; after a failure have the state be what the disk says."""
        while not self._suspects.empty():
            one = self._suspects.get()
            if one.partition in self._partitions.all:
                self._damaged[one.partition.number] = one
        if self._damaged:
            self._go_on_without(list(self._damaged.values()))
            self._damaged.clear()
        if self._is_unsure:
            self._reopen()
        self._is_unsure = False

    def _reopen(self) -> None:
        """After a failure the disk says what is stored: the last batch, though it failed, may be."""
        try:
            self._partitions.reopen()
            self._state.load(self._connection, self._partitions.current)
        except duckdb.Error as error:
            if not is_damage(error):
                raise
            self._go_on_without([Damaged(self._partitions.current, str(error))])
        else:
            self._refresh()

    def _go_on_without(self, damaged: Sequence[Damaged]) -> None:
        going = [one.partition for one in damaged]
        left = [one for one in self._partitions.all if one not in going]
        if self._partitions.current in going:
            # With the marks as they are known here: what was acknowledged is not asked for again.
            self._begin(without=going)
            self._is_unsure = False
        else:
            self._views.refresh(left, self._partitions.relations)
        for one in damaged:
            self._partitions.set_aside(one.partition, one.words)

    def _commit(self, batch: Sequence[Received]) -> None:
        known, marks, sorted_out = self._state.marks, Marks(), Batch()
        number, row = self._state.next_snapshot, self._state.next_row
        for one in batch:
            spool = one.agent, one.spool
            if one.seq <= (marks.get(spool) or known.get(spool, 0)):
                continue  # stored before: only the word that it was has been lost
            marks[spool] = one.seq
            record = one.record
            if isinstance(record, Snapshot):
                placement = self._partitions.relations.place(record.schema)
                link = self._state.streams.link(record, number, one.at)
                start = self._starts.of(record)
                placed = Placed(one, record, number, row, start, link, placement.relation.name)
                sorted_out.add(placed, placement)
                number += 1
                row += record.rows
            elif isinstance(record, Gap):
                sorted_out.gaps.append(one)
            else:
                sorted_out.statuses.append(one)
        if not marks:
            return
        new = self._write(sorted_out)
        self._partitions.current.is_empty = False
        self._state.marks.update(marks)
        self._state.next_snapshot, self._state.next_row = number, row
        self._state.streams.keep()
        if new:
            self._partitions.current.tables |= new
            self._refresh()

    def _write(self, batch: Batch) -> set[str]:
        """One transaction; the tables that are new with it."""
        partition, connection = self._partitions.current, self._connection
        new: dict[str, Placement] = {
            data_table(schema): placement
            for schema, (placement, _) in batch.by_schema.items()
            if data_table(schema) not in partition.tables
        }
        connection.execute("BEGIN")
        for placement in new.values():
            made = placement.recorded()
            connection.execute(data_ddl(partition.alias, placement))
            connection.execute(
                f"INSERT INTO {partition.alias}.schemas VALUES (?, ?, ?, ?, ?, ?, ?)",
                [made.schema, made.relation, made.collector, made.version, made.map, made.help, made.columns],
            )
        for table, rows in batch.tables():
            connection.register("batch", rows)
            connection.execute(f"INSERT INTO {partition.alias}.{table} SELECT * FROM batch")
            connection.unregister("batch")
        connection.execute("COMMIT")
        return set(new)

    def _begin(self, without: Sequence[Partition] = ()) -> None:
        since = time.time_ns() - int(self._settings.retention * 1e9)
        self._partitions.begin(self._state.carried(since))
        self._state.begin(self._partitions.current)
        staying = [one for one in self._partitions.all if one not in without]
        if len(staying) > 1:
            self._sum_up(staying[-2])
        self._views.refresh(staying, self._partitions.relations)

    def _sum_up(self, partition: Partition) -> None:
        """What can't be summed up now is when there is time; questions do without meanwhile."""
        if partition.is_summed_up or not partition.for_writing:
            return
        try:
            summary.make(self._connection, partition)
        except duckdb.Error as error:
            if is_damage(error):
                self._suspects.put(Damaged(partition, str(error)))
            else:
                self._note(f"partition {partition.path.name} can't be summed up now: {error}")

    def _refresh(self) -> None:
        self._views.refresh(self._partitions.all, self._partitions.relations)

    def _enforce(self) -> None:
        """Remove partitions that are too old, or beyond the limit of size."""
        self._partitions.remove_set_aside()
        going = self._partitions.too_many()
        if not going:
            return
        staying = [one for one in self._partitions.all if one not in going]
        self._views.refresh(staying, self._partitions.relations)
        for partition in going:
            self._partitions.remove(partition)

    def maintain(self) -> None:
        """Begin a new partition where it is time to, and remove what is too old or too much."""
        try:
            self._make_sure()
            if self._partitions.is_due():
                self._begin()
            self._enforce()
            # One at a time: records wait meanwhile.
            for one in [one for one in self._partitions.all[:-1] if not one.is_summed_up][:1]:
                self._sum_up(one)
                self._refresh()
        except duckdb.Error as error:
            self._is_unsure = True
            raise _not_now(error, str(self._folder)) from None
        except OSError as error:
            raise StoreError(
                f"the store's folder can't be used: {error.strerror}", where=str(self._folder)
            ) from None

    def close(self) -> None:
        """End questions, and let go of the files; a second time it does nothing."""
        if self._is_closed:
            return
        self._is_closed = True
        self._server.close()
        self._search.close()
        self._connection.close()
        self._lock.close()


def _not_now(error: duckdb.Error, where: str) -> StoreError:
    words = " ".join(str(error).split())
    full = "No space left on device" in words or "Out of Space" in words
    return StoreError(
        f"the store can't write: {words}",
        where=where,
        remedy="make room on the disk, or set a smaller size_limit" if full else "",
    )

"""The store: a batch becomes a few large INSERTs, then its marks."""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence

from bpfleet.errors import ConfigError
from bpfleet.stores import Received, StoreContext
from bpfleet.wire import Gap, Schema, Snapshot, Status
from bpfleet_aggregator.stores.clickhouse import marks, rows
from bpfleet_aggregator.stores.clickhouse.cluster import Everywhere, shape_of
from bpfleet_aggregator.stores.clickhouse.definitions import Definitions
from bpfleet_aggregator.stores.clickhouse.dialect import dialect_of
from bpfleet_aggregator.stores.clickhouse.failures import (
    ANOTHER_QUORUM,
    NO_SUCH_COLUMN,
    NO_SUCH_TABLE,
    Refused,
)
from bpfleet_aggregator.stores.clickhouse.literals import quoted
from bpfleet_aggregator.stores.clickhouse.native import InsertColumn
from bpfleet_aggregator.stores.clickhouse.retention import Retention
from bpfleet_aggregator.stores.clickhouse.server import HttpServer, Server
from bpfleet_aggregator.stores.clickhouse.settings import ClickhouseSettings
from bpfleet_aggregator.stores.clickhouse.tables import COLLECTORS, GAPS, MARKS, SNAPSHOTS, STATUSES

__all__ = ["ClickhouseStore", "open_store"]

_QUORUM_MS = 30_000
"""How long the server waits for the replicas of a quorum."""
_ANOTHER_QUORUM_S = 10.0
"""How long another aggregator's insert is waited for."""


class ClickhouseStore:
    """Keeps records in one ClickHouse database; several such objects, on several hosts, may share it."""

    def __init__(self, server: Server, settings: ClickhouseSettings, context: StoreContext) -> None:
        self._server = server
        self._settings = settings
        self._context = context
        dialect = dialect_of(server, settings.database)
        self._dialect = dialect
        everywhere = Everywhere(server, settings, context.note)
        self._definitions = Definitions(server, everywhere, settings, dialect, shape_of(server, settings))
        try:
            self._definitions.prepare()
        except Refused as refused:
            raise as_configuration(refused) from None
        self._retention = Retention(server, everywhere, settings, self._definitions.tables, context)
        quorum = (
            {"insert_quorum": settings.quorum, "insert_quorum_timeout": _QUORUM_MS}
            if settings.quorum > 1
            else {}
        )
        self._writing = dialect.only(
            # A batch of agents whose clocks are wrong may hold many days.
            max_partitions_per_insert_block=0,
            # Repeats are removed by key. The server's own guess, by the block's bytes, must not drop a block.
            insert_deduplicate=0,
            # The answer comes when the rows are in, whatever the server's or the user's profile says.
            async_insert=0,
            # Several aggregators at once, where the server can: nothing here reads its own writes (`marks`).
            insert_quorum_parallel=1,
            # Over shards: the answer comes when all have their rows.
            insert_distributed_sync=1,
            distributed_foreground_insert=1,
            **quorum,
        )

    def marks(self, spools: Sequence[tuple[str, str]]) -> Sequence[int]:
        """The highest durable seq of each (agent, spool), 0 where none is."""
        return marks.read_marks(self._server, self._definitions.tables.data(MARKS), spools)

    def schemas(self) -> Sequence[Schema]:
        """Those that have a place in this database, also by other aggregators."""
        return self._definitions.schemas()

    def commit(self, batch: Sequence[Received]) -> None:
        """Write the rows, then the marks. What is broken off is sent again."""
        if not batch:
            return
        try:
            self._write(batch)
        except Refused as refused:
            if refused.code not in NO_SUCH_TABLE | NO_SUCH_COLUMN:
                raise
            # Someone dropped a table: make what is missing, as at the start.
            self._definitions.forget()
            self._definitions.prepare()
            self._write(batch)

    def maintain(self) -> None:
        """Drop what is too old, or too much."""
        self._retention.apply()

    def close(self) -> None:
        """Let go of the connection."""
        self._server.close()

    def _write(self, batch: Sequence[Received]) -> None:
        shots: list[Received] = []
        by_schema: dict[str, list[Received]] = defaultdict(list)
        gaps: list[Received] = []
        statuses: list[Received] = []
        highest: dict[tuple[str, str], int] = {}
        # In the order of the tables' key, so that the server need not sort the rows.
        for one in sorted(batch, key=rows.place_in_table):
            record = one.record
            if isinstance(record, Snapshot):
                shots.append(one)
                by_schema[record.schema.id].append(one)
            elif isinstance(record, Gap):
                gaps.append(one)
            elif isinstance(record, Status):
                statuses.append(one)
            spool = one.agent, one.spool
            highest[spool] = max(one.seq, highest.get(spool, 0))
        self._write_snapshots(shots, by_schema)
        types, dialect = self._definitions.types, self._dialect
        if gaps:
            self._insert(GAPS, rows.gaps(gaps, types[GAPS], dialect))
        if statuses:
            self._insert(COLLECTORS, rows.collectors(statuses, types[COLLECTORS], dialect))
            self._insert(STATUSES, rows.statuses(statuses, types[STATUSES], dialect))
        self._insert(MARKS, marks.columns_of(highest))

    def _write_snapshots(
        self, shots: Sequence[Received], by_schema: Mapping[str, Sequence[Received]]
    ) -> None:
        """The rows of each map, then what is said of the reads."""
        dialect, relation_of = self._dialect, {}
        for schema, some in by_schema.items():
            record = some[0].record
            assert isinstance(record, Snapshot)
            placement = self._definitions.place(record.schema)
            relation_of[schema] = placement.relation.name
            table = f"Rows_{placement.relation.name}"
            self._insert(table, rows.rows(some, placement, self._definitions.types[table], dialect))
        if shots:
            types = self._definitions.types[SNAPSHOTS]
            self._insert(SNAPSHOTS, rows.snapshots(shots, relation_of, types, dialect))

    def _insert(self, table: str, columns: list[InsertColumn]) -> None:
        if len(columns[0].values) == 0:
            return
        names = ", ".join(quoted(column.name) for column in columns)
        into = f"INSERT INTO {self._definitions.tables.data(table)} ({names})"
        deadline = time.monotonic() + _ANOTHER_QUORUM_S
        while True:
            try:
                self._server.insert(into, columns, self._writing)
                return
            except Refused as refused:
                if refused.code not in ANOTHER_QUORUM or time.monotonic() > deadline:
                    raise
            # Old servers take quorum inserts into one table one by one.
            time.sleep(random.uniform(0.01, 0.1))


def as_configuration(refused: Refused) -> Refused | ConfigError:
    """At the start a refusal that the store's settings caused is told as such."""
    if not refused.is_of_settings:
        return refused
    return ConfigError(refused.what, where=refused.where, remedy=refused.remedy)


def open_store(settings: ClickhouseSettings, context: StoreContext) -> ClickhouseStore:
    """Connect, and make what is missing; raises ConfigError for wrong settings, StoreError for "not now"."""
    server = HttpServer(settings, settings.secret(context.state))
    try:
        return ClickhouseStore(server, settings, context)
    except Refused as refused:
        server.close()
        raise as_configuration(refused) from None
    except BaseException:
        server.close()
        raise

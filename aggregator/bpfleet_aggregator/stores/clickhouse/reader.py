"""Questions: one statement that reads, its answer as Arrow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import pyarrow as pa

from bpfleet.stores import StoreContext
from bpfleet_aggregator.stores.clickhouse.dialect import dialect_of
from bpfleet_aggregator.stores.clickhouse.failures import Refused
from bpfleet_aggregator.stores.clickhouse.instants import with_decimal_now
from bpfleet_aggregator.stores.clickhouse.literals import filled_in
from bpfleet_aggregator.stores.clickhouse.native_read import empty_answer
from bpfleet_aggregator.stores.clickhouse.quantile import with_quantiles
from bpfleet_aggregator.stores.clickhouse.server import HttpServer, Server, rows_of
from bpfleet_aggregator.stores.clickhouse.settings import ClickhouseSettings
from bpfleet_aggregator.stores.clickhouse.store import as_configuration

__all__ = ["ClickhouseReader", "open_reader"]


class ClickhouseReader:
    """Asks one database; beside aggregators that write, on any host that reaches the server."""

    def __init__(self, server: Server, settings: ClickhouseSettings) -> None:
        self._server = server
        self._dialect = dialect_of(server, settings.database)
        self._settings = {
            "database": settings.database,
            **self._dialect.only(
                # An answer nobody waits for any more ends.
                cancel_http_readonly_queries_on_client_close=1,
                # What comes twice has one time, so never lies in two partitions.
                do_not_merge_across_partitions_select_final=1,
                # As SQL has it: outer joins give NULL, UNION no repeats.
                join_use_nulls=1,
                union_default_mode="DISTINCT",
                readonly=2,
            ),
        }

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> pa.RecordBatchReader:
        """Run one statement that reads; `?` stands for a parameter. Raises StoreError."""
        asked = with_quantiles(
            filled_in(sql.strip().rstrip(";"), parameters, has_fractions=self._dialect.modern)
        )
        if not self._dialect.modern:
            asked = with_decimal_now(asked)
        batches = self._server.ask(asked, self._settings)
        first = next(batches, None)
        if first is None:
            return self._nothing(asked)
        return pa.RecordBatchReader.from_batches(first.schema, _same(chain([first], batches), first.schema))

    def close(self) -> None:
        """Let go of the connection."""
        self._server.close()

    def _nothing(self, asked: str) -> pa.RecordBatchReader:
        """An answer without rows: the server sends no block then, but tells the columns."""
        described = rows_of(self._server, f"DESCRIBE TABLE ({asked})", self._settings)
        made = empty_answer({str(row["name"]): str(row["type"]) for row in described})
        return pa.RecordBatchReader.from_batches(made.schema, [made])


def _same(batches: Iterator[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        yield batch if batch.schema == schema else batch.cast(schema)


def open_reader(settings: ClickhouseSettings, context: StoreContext) -> ClickhouseReader:
    """Connect; raises ConfigError for wrong settings, StoreError where the server does not answer."""
    server = HttpServer(settings, settings.secret(context.state))
    try:
        return ClickhouseReader(server, settings)
    except Refused as refused:
        server.close()
        raise as_configuration(refused) from None
    except BaseException:
        server.close()
        raise

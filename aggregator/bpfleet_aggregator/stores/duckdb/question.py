"""One question: checked to be one that reads, run, and answered in batches."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import duckdb
import pyarrow as pa

from bpfleet.errors import StoreError

__all__ = ["Question", "refusal"]

_BATCH = 10_000
_TRIES = 5
_GONE = re.compile(r'"?p\d+"? does not exist|Catalog p\d+|database "?p\d+"?')
_NO_READING = re.compile(r"\b(force_)?checkpoint\s*\(", re.IGNORECASE)


class Question:
    """Runs one statement on a cursor of its own, which it closes."""

    def __init__(self, cursor: duckdb.DuckDBPyConnection, sql: str, parameters: Sequence[Any] = ()) -> None:
        self._cursor = cursor
        try:
            _check(cursor, sql)
            self._reader = self._begin(sql, list(parameters))
        except BaseException as error:
            self.close()
            if isinstance(error, (duckdb.Error, OSError, pa.ArrowException)):
                raise refusal(error) from None
            raise
        self.schema: pa.Schema = self._reader.schema

    def _begin(self, sql: str, parameters: list[Any]) -> pa.RecordBatchReader:
        for left in reversed(range(_TRIES)):
            # Nothing that it does can write, whatever the statement is.
            self._cursor.execute("BEGIN TRANSACTION READ ONLY")
            try:
                return self._cursor.sql(sql, params=parameters or None).to_arrow_reader(_BATCH)
            except duckdb.Error as error:
                self._cursor.execute("ROLLBACK")
                # A partition was removed while it was being prepared: now the views are without it.
                if not left or not _GONE.search(str(error)):
                    raise
        raise AssertionError

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The answer as it is made; raises StoreError where it breaks off."""
        while True:
            try:
                batch = self._reader.read_next_batch()
            except StopIteration:
                return
            except (duckdb.Error, OSError, pa.ArrowException) as error:
                raise refusal(error) from None
            if batch.num_rows:
                yield batch

    def interrupt(self) -> None:
        """End it from another thread."""
        self._cursor.interrupt()

    def close(self) -> None:
        """End it, wherever it is."""
        self._reader = None
        self._cursor.close()


def _check(cursor: duckdb.DuckDBPyConnection, sql: str) -> None:
    statements = cursor.extract_statements(sql)
    if len(statements) != 1:
        raise StoreError(
            f"a question is one statement, this is {len(statements)}", remedy="ask one at a time"
        )
    kind = statements[0].type
    if kind not in (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN) or _NO_READING.search(sql):
        raise StoreError(
            f"only statements that read are answered, this one is {kind.name}",
            remedy="ask with SELECT (or WITH, FROM, DESCRIBE, SHOW, EXPLAIN)",
        )


def refusal(error: BaseException) -> StoreError:
    """The engine's own words as an error: the first line, then where in the statement it is."""
    first, _, rest = str(error).strip().partition("\n")
    return StoreError(first, log="\n".join(line for line in rest.splitlines() if line.strip()))

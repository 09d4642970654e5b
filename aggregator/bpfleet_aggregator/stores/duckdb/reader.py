"""How questions reach a store: by the socket of the aggregator that writes to it, else by its files."""

from __future__ import annotations

import contextlib
import io
import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, TypeVar

import duckdb
import pyarrow as pa

from bpfleet.errors import StoreError
from bpfleet.stores import StoreContext, StoreReader
from bpfleet_aggregator.stores.duckdb import engine
from bpfleet_aggregator.stores.duckdb.damage import error_of, find, is_damage, missing
from bpfleet_aggregator.stores.duckdb.partitions import Partitions
from bpfleet_aggregator.stores.duckdb.question import Question, refusal
from bpfleet_aggregator.stores.duckdb.settings import DuckdbSettings
from bpfleet_aggregator.stores.duckdb.views import Views
from bpfleet_aggregator.stores.duckdb.wire import AnswerReader, address, send_request

__all__ = ["FileReader", "SocketReader", "open_reader"]


_AHEAD = 1 << 20

T = TypeVar("T")


def open_reader(settings: DuckdbSettings, context: StoreContext) -> StoreReader:
    """Whichever way is open; raises StoreError where there is no store."""
    folder = settings.folder(context)
    if not folder.is_dir():
        raise StoreError(
            "there is no store here",
            where=str(folder),
            remedy="name the folder of one (--store), or a configuration (--config)",
        )
    for line in missing(folder):
        context.note(line)
    reader = SocketReader(settings, context)
    if reader.is_there():
        return reader
    try:
        return FileReader(settings, context)
    except engine.Busy:
        # An aggregator has begun to write just now.
        if reader.is_there():
            return reader
        raise


class SocketReader:
    """Asks the aggregator; one connection per question."""

    def __init__(self, settings: DuckdbSettings, context: StoreContext) -> None:
        self._folder = settings.folder(context)
        self._open: list[socket.socket] = []

    def is_there(self) -> bool:
        """Whether an aggregator listens. Raises StoreError where this user may not ask it."""
        try:
            self._connect().close()
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        except OSError as error:
            raise StoreError(
                f"the aggregator can't be asked: {error.strerror}",
                where=str(self._folder / "socket"),
                remedy='ask as its user, or in its group with socket_mode = "0660"',
            ) from None
        return True

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> pa.RecordBatchReader:
        """As StoreReader says."""
        connection = self._connect()
        self._open.append(connection)
        answer = AnswerReader(connection)
        try:
            send_request(connection, sql, parameters)
            stream = pa.ipc.open_stream(io.BufferedReader(answer, _AHEAD))
        except (OSError, pa.ArrowInvalid) as error:
            raise answer.error or refusal(error) from None
        return pa.RecordBatchReader.from_batches(stream.schema, _batches(stream, answer))

    def close(self) -> None:
        """End what is being answered."""
        for connection in self._open:
            connection.close()

    def _connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        try:
            with address(self._folder) as name:
                connection.connect(name)
        except OSError:
            connection.close()
            raise
        return connection


def _batches(stream: pa.RecordBatchReader, answer: AnswerReader) -> Iterator[pa.RecordBatch]:
    while True:
        try:
            batch = stream.read_next_batch()
        except StopIteration:
            # The Arrow stream has an end of its own; whether all came is said after it.
            answer.finish()
            if answer.error is not None:
                raise answer.error from None
            return
        except (OSError, pa.ArrowException) as error:
            raise answer.error or refusal(error) from None
        if answer.error is not None:
            raise answer.error
        yield batch


class FileReader:
    """Opens the partitions itself, for reading, where no aggregator does."""

    def __init__(self, settings: DuckdbSettings, context: StoreContext) -> None:
        self._folder = folder = settings.folder(context)
        self._connection = engine.connect(folder, settings)
        try:
            self._partitions = partitions = Partitions(
                self._connection, folder, settings, context.note, writable=False
            )
            partitions.open()
            if not partitions.all:
                raise StoreError("nothing is stored here yet", where=str(folder))
            Views(self._connection).refresh(partitions.all, partitions.relations)
        except BaseException as error:
            self._connection.close()
            if isinstance(error, duckdb.Error):
                raise refusal(error) from None
            if isinstance(error, RuntimeError) and "interrupted" in str(error):
                raise KeyboardInterrupt from None  # the engine's way to say Ctrl-C
            raise
        self._questions: list[Question] = []
        self._worker = ThreadPoolExecutor(1, "store-question")

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> pa.RecordBatchReader:
        """As StoreReader says."""
        cursor = self._connection.cursor()
        question = self._waited(cursor, lambda: Question(cursor, sql, parameters))
        self._questions.append(question)
        return pa.RecordBatchReader.from_batches(question.schema, self._batches(cursor, question))

    def _batches(self, cursor: duckdb.DuckDBPyConnection, question: Question) -> Iterator[pa.RecordBatch]:
        batches = question.batches()
        while (batch := self._waited(cursor, lambda: next(batches, None))) is not None:
            yield batch

    def _waited(self, cursor: duckdb.DuckDBPyConnection, do: Callable[[], T]) -> T:
        """What `do` returns, in another thread: the engine does not look for a Ctrl-C, this one does."""
        future = self._worker.submit(do)
        try:
            return future.result()
        except StoreError as error:
            if not is_damage(error.what):
                raise
            found = self._waited(cursor, lambda: find(self._connection, self._partitions.all))
            raise error_of(found, error.what, self._folder, writes=False) from None
        except KeyboardInterrupt:
            while not future.done():
                cursor.interrupt()
                wait([future], timeout=0.05)
            raise

    def close(self) -> None:
        """Let go of the files."""
        for question in self._questions:
            with contextlib.suppress(duckdb.Error):
                question.close()
        self._worker.shutdown()
        self._connection.close()

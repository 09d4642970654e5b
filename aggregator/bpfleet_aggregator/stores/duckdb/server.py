"""Answers questions while the store is open for writing: nobody else can open its files meanwhile."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from pathlib import Path

import duckdb
import pyarrow as pa

from bpfleet.errors import BpfleetError, StoreError
from bpfleet_aggregator.stores.duckdb.damage import Search, is_damage
from bpfleet_aggregator.stores.duckdb.question import Question
from bpfleet_aggregator.stores.duckdb.settings import DuckdbSettings
from bpfleet_aggregator.stores.duckdb.wire import SOCKET, AnswerWriter, Request, address, receive_request

__all__ = ["Server"]

_PATIENCE = 10.0
"""Seconds that a question waits for others to end, and that a peer may take to ask it."""
_MOST_WAITING = 64


class Server:
    """A unix socket in the store's folder; a thread per question, and one that watches it."""

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        folder: Path,
        settings: DuckdbSettings,
        search: Search,
    ) -> None:
        self._search = search
        self._parent = connection.cursor()
        self._parent_lock = threading.Lock()
        self._settings = settings
        self._room = threading.BoundedSemaphore(settings.questions)
        self._threads: set[threading.Thread] = set()
        self._is_closing = threading.Event()
        self._path = folder / SOCKET
        self._path.unlink(missing_ok=True)  # of one that was killed: the lock is ours
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            with address(folder) as name:
                self._socket.bind(name)
            self._path.chmod(int(settings.socket_mode, 8))
            self._socket.listen(_MOST_WAITING)
        except OSError as error:
            self._socket.close()
            self._parent.close()
            raise StoreError(
                f"the socket for questions can't be made: {error.strerror}", where=str(self._path)
            ) from None
        self._accepting = threading.Thread(target=self._accept, name="store-questions", daemon=True)
        self._accepting.start()

    def close(self) -> None:
        """Take no more questions, and end those that are being answered."""
        self._is_closing.set()
        self._path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._socket.close()
        for thread in list(self._threads):
            while thread.is_alive():
                self._search.interrupt()
                thread.join(0.1)
        self._parent.close()

    def _accept(self) -> None:
        while not self._is_closing.is_set():
            try:
                peer, _ = self._socket.accept()
            except OSError:
                if self._is_closing.wait(0.1):  # else: too many open files, which passes
                    return
                continue
            if len(self._threads) >= _MOST_WAITING:
                peer.close()
                continue
            thread = threading.Thread(target=self._serve, args=(peer,), name="store-question", daemon=True)
            self._threads.add(thread)
            thread.start()

    def _serve(self, peer: socket.socket) -> None:
        try:
            with peer:
                peer.settimeout(_PATIENCE)
                writer = AnswerWriter(peer)
                try:
                    request = receive_request(peer)
                    if request is not None:
                        self._answer(request, peer, writer)
                except BpfleetError as error:
                    writer.fail(error)
                writer.close()
        except OSError:
            pass  # whoever asked has gone, or reads no more
        finally:
            self._threads.discard(threading.current_thread())

    def _answer(self, request: Request, peer: socket.socket, writer: AnswerWriter) -> None:
        if not self._room.acquire(timeout=_PATIENCE):
            raise StoreError(
                f"{self._settings.questions} questions are being answered already",
                remedy="ask again later, or let the aggregator answer more at a time (questions)",
            )
        try:
            with self._parent_lock:
                cursor = self._parent.cursor()
            with _Watch(cursor, peer, self._settings.question_timeout, self._is_closing) as watch:
                try:
                    self._send(Question(cursor, request.sql, request.parameters), peer, writer)
                    return
                except StoreError as error:
                    failure = watch.reason or error
            if is_damage(failure.what):
                failure = self._search.error_for(failure.what)
            raise failure
        finally:
            self._room.release()

    def _send(self, question: Question, peer: socket.socket, writer: AnswerWriter) -> None:
        peer.settimeout(self._settings.question_timeout)
        rows = 0
        try:
            with pa.ipc.new_stream(writer, question.schema) as stream:
                for batch in question.batches():
                    rows += batch.num_rows
                    if rows > self._settings.question_rows:
                        raise StoreError(
                            f"the answer has more than {self._settings.question_rows:,} rows",
                            remedy="ask for fewer (LIMIT, GROUP BY), or raise question_rows",
                        )
                    stream.write_batch(batch)
            writer.end()
        finally:
            question.close()


class _Watch:
    """Interrupts a question that takes too long, whose asker has gone, or when the store closes."""

    def __init__(
        self,
        cursor: duckdb.DuckDBPyConnection,
        peer: socket.socket,
        timeout: float,
        closing: threading.Event,
    ) -> None:
        self.reason: StoreError | None = None
        self._cursor, self._peer, self._timeout, self._closing = cursor, peer, timeout, closing
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="store-watch", daemon=True)

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        deadline = time.monotonic() + self._timeout
        while not self._done.wait(0.05):
            self.reason = self._why(deadline)
            if self.reason is not None:
                # Again and again: the statement may not have begun yet.
                while not self._done.wait(0.05):
                    with contextlib.suppress(duckdb.Error):
                        self._cursor.interrupt()
                return

    def _why(self, deadline: float) -> StoreError | None:
        if time.monotonic() > deadline:
            return StoreError(
                f"the question took longer than {self._timeout:g} s, and was ended",
                remedy="ask for less, or raise question_timeout",
            )
        if self._closing.is_set():
            return StoreError("the aggregator is ending", remedy="ask again")
        gone = select.poll()
        gone.register(self._peer, select.POLLRDHUP)
        return StoreError("whoever asked has gone") if gone.poll(0) else None

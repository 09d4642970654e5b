"""One ClickHouse server over HTTP: statements, inserts, answers block by block."""

from __future__ import annotations

import gzip
import http.client
import ssl
from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol
from urllib.parse import urlencode, urlsplit

import pyarrow as pa

from bpfleet.errors import ConfigError, StoreError
from bpfleet_aggregator.stores.clickhouse.failures import Refused, said, unreachable
from bpfleet_aggregator.stores.clickhouse.native import InsertColumn, encoded_block
from bpfleet_aggregator.stores.clickhouse.native_read import read_block
from bpfleet_aggregator.stores.clickhouse.native_source import Damaged, EndOfAnswer, Source
from bpfleet_aggregator.stores.clickhouse.settings import ClickhouseSettings

__all__ = ["HttpServer", "Server", "answer_of", "rows_of"]

Piece = bytes | memoryview


class Server(Protocol):
    """What the store needs of an engine. All raise StoreError; `Refused` where the engine says no."""

    def run(self, sql: str, settings: Mapping[str, object] | None = None) -> None:
        """One statement without an answer."""

    def insert(
        self, into: str, columns: list[InsertColumn], settings: Mapping[str, object] | None = None
    ) -> None:
        """`INSERT INTO …` of one block."""

    def ask(self, sql: str, settings: Mapping[str, object] | None = None) -> Iterator[pa.RecordBatch]:
        """The answer's blocks; at least one, perhaps of no rows. Close the iterator to end it early."""

    def close(self) -> None:
        """Let go of the connection."""


def rows_of(
    server: Server, sql: str, settings: Mapping[str, object] | None = None
) -> list[dict[str, object]]:
    """A small answer as one dict per row."""
    return [row for batch in server.ask(sql, settings) for row in batch.to_pylist()]


def answer_of(source: Source, where: str) -> Iterator[pa.RecordBatch]:
    """The blocks of an answer. An error that comes behind the first ones is raised as such."""
    schema = None
    while True:
        try:
            batch = read_block(source, schema)
        except EndOfAnswer:
            return
        except Damaged as damage:
            rest = damage.begin + source.read(1 << 16)
            if b"Code: " not in rest:
                raise StoreError(
                    "the answer broke off, or is damaged", where=where, remedy="ask again"
                ) from None
            raise Refused(rest.decode("utf-8", "replace"), where=where) from None
        schema = batch.schema
        yield batch


class HttpServer:
    """A connection that is made when needed, kept, and made anew after a failure."""

    def __init__(self, settings: ClickhouseSettings, password: str) -> None:
        self._settings = settings
        parts = urlsplit(settings.url)
        self.where = f"clickhouse at {settings.url}"
        self._secure = parts.scheme == "https"
        self._host = parts.hostname or ""
        self._port = parts.port or (8443 if self._secure else 8123)
        self._headers = {"X-ClickHouse-User": settings.user, "X-ClickHouse-Key": password}
        self._tls: ssl.SSLContext | None = None
        if self._secure:
            try:
                self._tls = ssl.create_default_context(cafile=settings.ca_file)
            except OSError as error:
                raise ConfigError(
                    f"certificates can't be read: {error}",
                    where=f"ca_file = {settings.ca_file!r}",
                    remedy="name a PEM file",
                ) from None
        self._connection: http.client.HTTPConnection | None = None

    def run(self, sql: str, settings: Mapping[str, object] | None = None) -> None:
        self._carry_out({**(settings or {})}, [sql.encode()])

    def insert(
        self, into: str, columns: list[InsertColumn], settings: Mapping[str, object] | None = None
    ) -> None:
        body: list[Piece] = encoded_block(columns)
        headers = {}
        if self._settings.compression == "gzip":
            body = [gzip.compress(b"".join(body), 1)]
            headers["Content-Encoding"] = "gzip"
        query = {"query": f"{into} FORMAT Native", **(settings or {})}
        self._carry_out(query, body, headers)

    def ask(self, sql: str, settings: Mapping[str, object] | None = None) -> Iterator[pa.RecordBatch]:
        answer = self._request({"default_format": "Native", **(settings or {})}, [sql.encode()])
        finished = False
        try:
            yield from answer_of(answer, self.where)
            finished = True
        except (OSError, http.client.HTTPException) as error:
            raise unreachable(error, where=self.where) from None
        finally:
            if not finished:
                self.close()  # the rest of the answer is on its way: the connection can't be used again

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _carry_out(
        self, query: Mapping[str, object], body: Iterable[Piece], headers: Mapping[str, str] | None = None
    ) -> None:
        """Send, and take an answer that says nothing to its end: only then is it known to be carried out."""
        answer = self._request(query, body, headers)
        try:
            answer.read()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise unreachable(error, where=self.where) from None

    def _request(
        self, query: Mapping[str, object], body: Iterable[Piece], headers: Mapping[str, str] | None = None
    ) -> http.client.HTTPResponse:
        """Send; the answer's head has come, and is no error."""
        pieces = list(body)
        length = sum(len(piece) for piece in pieces)
        # A kept connection may have been closed by the server meanwhile: that shows only when it is used. One
        # try more with a new one is safe for every statement here, also for one that was carried out.
        for is_last in (False, True):
            fresh = self._connection is None
            try:
                answer = self._send(
                    query, pieces, {**self._headers, **(headers or {}), "Content-Length": str(length)}
                )
            except TimeoutError as error:
                self.close()
                raise unreachable(error, where=self.where) from None
            except (OSError, http.client.HTTPException) as error:
                self.close()
                if is_last or fresh:
                    raise unreachable(error, where=self.where) from None
                continue
            return answer
        raise AssertionError

    def _send(
        self, query: Mapping[str, object], pieces: list[Piece], headers: Mapping[str, str]
    ) -> http.client.HTTPResponse:
        connection = self._connected()
        try:
            connection.request("POST", f"/?{urlencode(query)}", iter(pieces), dict(headers))
        except (BrokenPipeError, ConnectionResetError):
            # Refused before all was read (a wrong password): the reason may have come all the same.
            answer = connection.getresponse()
        else:
            answer = connection.getresponse()
        if answer.status == 200:
            return answer
        text = answer.read(1 << 16).decode("utf-8", "replace")
        self.close()
        if "Code:" in text:
            raise Refused(text, where=self.where)
        raise StoreError(
            f"HTTP {answer.status} {answer.reason}: {said(text)}",
            where=self.where,
            remedy="is that ClickHouse's HTTP interface?",
        )

    def _connected(self) -> http.client.HTTPConnection:
        if self._connection is None:
            patience = self._settings.connect_timeout
            if self._tls is not None:
                made: http.client.HTTPConnection = http.client.HTTPSConnection(
                    self._host, self._port, timeout=patience, context=self._tls
                )
            else:
                made = http.client.HTTPConnection(self._host, self._port, timeout=patience)
            made.connect()
            made.sock.settimeout(self._settings.timeout)
            self._connection = made
        return self._connection

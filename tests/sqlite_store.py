"""A small real store, as a plugin from elsewhere: rows in SQLite, with the marks in the same transaction.

It has no unique index: a record that is stored twice is there twice, and a test sees it. A file `fail` beside
the database makes it say "not now"; `broken`, raise something else for everything; `wait`, be slow until it
is gone. A record with b"POISON" in its columns can't be stored.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bpfleet import Received, StoreContext, StoreError, StoreSettings, StoreType, hookimpl
from bpfleet.wire import Snapshot


class Settings(StoreSettings, frozen=True, kw_only=True):
    """Where the database is."""

    path: str = "records.sqlite"


class SqliteStore:
    """Rows (agent, spool, seq, kind, content)."""

    def __init__(self, settings: Settings, context: StoreContext) -> None:
        self._directory = context.state
        try:
            self._database = sqlite3.connect(
                context.state / settings.path, check_same_thread=False, isolation_level=None
            )
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = FULL")
            self._database.execute("CREATE TABLE IF NOT EXISTS rows (agent, spool, seq, kind, content)")
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS marks (agent, spool, seq, PRIMARY KEY (agent, spool))"
            )
        except sqlite3.Error as error:
            raise StoreError(f"the database can't be opened: {error}") from None

    def marks(self, spools: Sequence[tuple[str, str]]) -> list[int]:
        """As the contract says."""
        query = "SELECT seq FROM marks WHERE agent = ? AND spool = ?"
        rows = (self._database.execute(query, one).fetchone() for one in spools)
        return [row[0] if row else 0 for row in rows]

    def commit(self, batch: Sequence[Received]) -> None:
        """As the contract says."""
        end = time.monotonic() + 60
        while (self._directory / "wait").exists() and time.monotonic() < end:
            time.sleep(0.01)
        if (self._directory / "fail").exists():
            raise StoreError("the file 'fail' is there")
        if (self._directory / "broken").exists():
            raise RuntimeError("the file 'broken' is there")
        rows = [(r.agent, r.spool, r.seq, type(r.record).__name__, content(r.record)) for r in batch]
        if any(b"POISON" in row[4] for row in rows):
            raise ValueError("poison")
        try:
            self._database.execute("BEGIN IMMEDIATE")
            self._database.executemany("INSERT INTO rows VALUES (?, ?, ?, ?, ?)", rows)
            marks = {(r.agent, r.spool): r.seq for r in batch}
            self._database.executemany(
                "INSERT OR REPLACE INTO marks VALUES (?, ?, ?)",
                [(*spool, seq) for spool, seq in marks.items()],
            )
            self._database.execute("COMMIT")
        except sqlite3.Error as error:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise StoreError(f"the database says: {error}") from None

    def maintain(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Let go."""
        self._database.close()


def content(record: Any) -> bytes:
    """The bytes of a snapshot's columns, one after another; of others their text."""
    if isinstance(record, Snapshot):
        return b"".join(map(bytes, record.columns))
    return repr(record).encode()


def stored(state: Path, path: str = "records.sqlite") -> list[tuple[str, str, int, str, bytes]]:
    """Everything stored, in the order of its coming."""
    database = sqlite3.connect(f"file:{state / path}?mode=ro", uri=True, timeout=10)
    try:
        found = database.execute(
            "SELECT agent, spool, seq, kind, content FROM rows ORDER BY rowid"
        ).fetchall()
    except sqlite3.OperationalError:
        found = []
    database.close()
    return found


def _no_reader(settings: Settings, context: StoreContext) -> Any:
    raise StoreError("this store is read by tests only")


@hookimpl
def bpfleet_stores() -> list[StoreType]:
    """The store `rows`."""
    return [
        StoreType(name="rows", help="Rows in SQLite.", open=SqliteStore, read=_no_reader, settings=Settings)
    ]

"""The SQLite file of a spool: ours alone, opened whatever lies in its place, usable on a full disk.

NAME.sqlite (and -wal) hold the records. NAME.lock keeps a second agent out. NAME.reserve is room for a full
disk: it is given up so that delivered records can be deleted, and nothing is added until it is back.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bpfleet_plugins.sinks.spool_place import Damaged, check_place, set_aside, take_lock, unusable

__all__ = ["APPLICATION", "VERSION", "NoRoom", "SpoolFile"]

log = logging.getLogger("bpfleet.sink.zmq")

APPLICATION, VERSION = 0x62706673, 1

_TABLES = """
CREATE TABLE meta (id TEXT NOT NULL, reserved INTEGER NOT NULL);
CREATE TABLE origins (id INTEGER PRIMARY KEY, agent TEXT NOT NULL, host TEXT NOT NULL, boot TEXT NOT NULL,
    run INTEGER NOT NULL, taken INTEGER NOT NULL);
CREATE TABLE schemas (id INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, data BLOB NOT NULL);
CREATE TABLE records (seq INTEGER PRIMARY KEY, kind TEXT NOT NULL, origin INTEGER NOT NULL,
    first INTEGER NOT NULL, last INTEGER NOT NULL, count INTEGER NOT NULL, reason TEXT NOT NULL,
    schema INTEGER NOT NULL, size INTEGER NOT NULL, t1 INTEGER NOT NULL, at REAL NOT NULL);
CREATE TABLE frames (seq INTEGER PRIMARY KEY, data BLOB NOT NULL);
"""
"""`records` says what waits, `frames` has the bytes: the one can be gone through without the other.

first, last, count: the origin's seqs that a row stands for (of a gap: that it tells of). at: Unix time, s.
"""

_DAMAGE = {
    sqlite3.SQLITE_ERROR,  # a table or column that is not there
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_FORMAT,
    sqlite3.SQLITE_MISMATCH,
    sqlite3.SQLITE_CONSTRAINT,
    sqlite3.SQLITE_IOERR_READ,
    sqlite3.SQLITE_IOERR_SHORT_READ,
    sqlite3.SQLITE_IOERR_CORRUPTFS,
}


class NoRoom(Exception):
    """Raised where the disk takes no more; what was asked for is not done, what was there before is."""


class SpoolFile:
    """An open spool; its methods are called by one thread at a time.

    What is damaged is set aside with a warning, and `fresh` says that a new file was begun. `reserve` is in
    bytes. Raises SinkError where another process has it or the disk is full, PrivilegeError where `user` may
    not write there.
    """

    def __init__(self, path: Path, user: str, *, always: bool, reserve: int) -> None:
        self.path, self._user = path, user
        self._always, self._reserve = always, reserve
        self.fresh = False
        self.pending = 0
        """Bytes written since the last checkpoint, about."""
        self._db: sqlite3.Connection | None = None
        self._lock = take_lock(path, user)
        try:
            self._begin()
        except BaseException:
            self.close()
            raise

    @property
    def db(self) -> sqlite3.Connection:
        """For reading; every change belongs into `transaction`."""
        if self._db is None:
            raise NoRoom("it is not open")
        return self._db

    @property
    def used(self) -> int:
        """Bytes of pages in use; the write-ahead log, and pages that wait to be used again, left out."""
        return (self._pragma("page_count") - self._pragma("freelist_count")) * self._pragma("page_size")

    @contextmanager
    def explained(self) -> Iterator[None]:
        """SQLite's errors as Damaged or NoRoom."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            code = getattr(error, "sqlite_errorcode", 0)
            damage = code in _DAMAGE or code & 0xFF in _DAMAGE
            raise (Damaged if damage else NoRoom)(str(error)) from error

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All of it or nothing; once it is left the death of this process loses nothing of it."""
        with self.explained():
            db = self.db
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    if db.in_transaction:
                        db.execute("ROLLBACK")
                raise

    def checkpoint(self) -> None:
        """Bring the write-ahead log into the file, synced: what was written survives a loss of power too."""
        with self.explained():
            self.db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        self.pending = 0

    def shrink(self) -> None:
        """Give free pages back to the disk, where there are many."""
        with self.explained():
            if self._pragma("freelist_count") * self._pragma("page_size") > self._reserve:
                # A script is stepped to its end; `execute` would free one page.
                self.db.executescript("PRAGMA incremental_vacuum")
                self.db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    # ---- room on a full disk

    def have_reserve(self) -> None:
        """Make sure of the reserve, without which nothing is added; raises NoRoom."""
        try:
            fd = os.open(self._reserve_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                if os.fstat(fd).st_size < self._reserve:
                    os.posix_fallocate(fd, 0, self._reserve)
            except OSError:
                # What came of it takes room that deleting may need.
                with suppress(OSError):
                    os.ftruncate(fd, 0)
                raise
            finally:
                os.close(fd)
        except OSError as error:
            raise NoRoom(error.strerror or str(error)) from None

    def use_reserve(self) -> None:
        """Give the reserve up, and with its room bring the log into the file; raises NoRoom."""
        self._free_reserve()
        self.checkpoint()

    def _free_reserve(self) -> None:
        with suppress(OSError):
            os.truncate(self._reserve_path, 0)

    @property
    def _reserve_path(self) -> Path:
        return self.path.with_suffix(".reserve")

    # ---- opening and closing

    def begin_anew(self, reason: str) -> None:
        """Set the file aside and begin another; raises SinkError where that can't be."""
        self._let_go()
        aside = set_aside(self.path, self._user)
        kept = f" It is kept as {aside}." if aside else ""
        log.warning(
            "the spool %s can't be used: %s.%s A new one is begun; a gap tells of what is known to be lost",
            self.path,
            reason,
            kept,
        )
        try:
            self._open()
        except (Damaged, NoRoom) as error:
            self._let_go()
            raise unusable(self.path, error) from None

    def close(self) -> None:
        """Close the file, and let others have it."""
        self._let_go()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _let_go(self) -> None:
        if self._db is not None:
            with suppress(sqlite3.Error):
                self._db.close()
            self._db = None

    def _begin(self) -> None:
        try:
            try:
                check_place(self.path, self._user)
                self._open()
            except NoRoom:
                self._let_go()
                self._free_reserve()
                self._open()
        except Damaged as error:
            self.begin_anew(str(error))
        except NoRoom as error:
            raise unusable(self.path, error) from None

    def _open(self) -> None:
        self.fresh = not self.path.exists()
        if self.fresh:
            # A log without its file belongs to nothing.
            for ending in ("-wal", "-shm", "-journal"):
                Path(f"{self.path}{ending}").unlink(missing_ok=True)
        with self.explained():
            self._db = db = sqlite3.connect(
                self.path, timeout=0, isolation_level=None, check_same_thread=False
            )
            if self.fresh:
                os.chmod(self.path, 0o600)
            for pragma in (
                "locking_mode = EXCLUSIVE",  # no shared memory: nobody else may look in anyway
                f"synchronous = {'FULL' if self._always else 'NORMAL'}",
                "wal_autocheckpoint = 0",
                f"journal_size_limit = {self._reserve // 2}",
                "cache_size = -512",
                "temp_store = MEMORY",
                "secure_delete = OFF",  # zeroing what is deleted would need room for it in the log
            ):
                db.execute(f"PRAGMA {pragma}").fetchall()
            self.fresh = self.fresh or not self._pragma("page_count")
            if self.fresh:
                db.execute("PRAGMA page_size = 4096")
                db.execute("PRAGMA auto_vacuum = INCREMENTAL")
            elif self._pragma("application_id") != APPLICATION:
                raise Damaged("it is no spool")
            elif self._pragma("user_version") != VERSION:
                raise Damaged(f"it is of version {self._pragma('user_version')}, this agent's is {VERSION}")
            db.execute("PRAGMA journal_mode = WAL").fetchall()
        if self.fresh:
            self._make()

    def _make(self) -> None:
        with self.transaction() as db:
            for statement in _TABLES.split(";"):
                db.execute(statement)
            db.execute("INSERT INTO meta VALUES (?, 1)", (uuid.uuid4().hex,))
            db.execute(f"PRAGMA application_id = {APPLICATION}")
            db.execute(f"PRAGMA user_version = {VERSION}")
        self.checkpoint()

    def _pragma(self, name: str) -> int:
        return int(self.db.execute(f"PRAGMA {name}").fetchone()[0])

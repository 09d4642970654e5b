"""Damage inside a partition: told from other errors, found, and said with each answer.

Every block of a file has a checksum, so what is damaged is an error and never a wrong answer. The engine does
not say in which file; whoever meets it has all of them read.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import duckdb

from bpfleet.errors import StoreError
from bpfleet_aggregator.stores.duckdb.engine import quoted, text
from bpfleet_aggregator.stores.duckdb.files import set_aside_files
from bpfleet_aggregator.stores.duckdb.partitions import Partition

__all__ = ["Damaged", "Search", "error_of", "find", "is_damage", "missing"]

_WORDS = ("Corrupt ", "stored checksum", "Could not read enough bytes", "Could not read all bytes")


class Damaged(NamedTuple):
    """A partition that can't be read whole."""

    partition: Partition
    words: str
    """The engine's."""


def is_damage(error: BaseException | str) -> bool:
    """Whether these are the engine's words for a file that is not as it was written."""
    return any(words in str(error) for words in _WORDS)


def find(connection: duckdb.DuckDBPyConnection, partitions: Sequence[Partition]) -> list[Damaged]:
    """Read all of these, and say which are damaged; raises duckdb.Error where it is interrupted."""
    found = []
    for partition in partitions:
        try:
            _read(connection, partition)
        except duckdb.Error as error:
            if is_damage(error):
                found.append(Damaged(partition, str(error).splitlines()[0]))
            elif isinstance(error, duckdb.InterruptException):
                raise
            # Else it has gone meanwhile, by retention.
    return found


def _read(connection: duckdb.DuckDBPyConnection, partition: Partition) -> None:
    tables = connection.execute(
        f"SELECT table_name FROM duckdb_tables() WHERE database_name = {text(partition.alias)}"
    ).fetchall()
    for (name,) in tables:
        connection.execute(f"SELECT bit_xor(hash(t)) FROM {partition.alias}.{quoted(name)} t").fetchall()


def error_of(damaged: Sequence[Damaged], words: str, folder: Path, *, writes: bool) -> StoreError:
    """What a question that met damage is told; `writes`: an aggregator is there, which sets it aside."""
    if not damaged:
        return StoreError(
            f"a block could not be read, and could when all were read again: {words}",
            where=str(folder),
            remedy="ask again; if it comes back look at the disk and at the memory of this machine",
        )
    names = ", ".join(str(one.partition.path) for one in damaged)
    return StoreError(
        f"a partition is damaged: {damaged[0].words}",
        where=names,
        remedy="ask again: it is being set aside, and answers go on without its records"
        if writes
        else "put back a good copy, or move it away: answers are then without its records",
    )


class Search:
    """Finds what is damaged for whoever meets it first; others that meet it meanwhile wait for the same."""

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        folder: Path,
        partitions: Callable[[], Sequence[Partition]],
        tell: Callable[[Damaged], None],
    ) -> None:
        self._connection, self._folder = connection.cursor(), folder
        self._partitions, self._tell = partitions, tell
        self._lock = threading.Lock()
        self._searches = 0
        self._found: list[Damaged] = []

    def error_for(self, words: str) -> StoreError:
        """What a question is told that ended with these words."""
        before = self._searches
        with self._lock:
            if self._searches == before:
                try:
                    self._found = find(self._connection, self._partitions())
                except duckdb.Error as error:
                    return StoreError("the aggregator is ending", remedy="ask again", log=str(error))
                self._searches += 1
                for one in self._found:
                    self._tell(one)
            return error_of(self._found, words, self._folder, writes=True)

    def interrupt(self) -> None:
        """End the search that goes on, if one does."""
        with contextlib.suppress(duckdb.Error):
            self._connection.interrupt()

    def close(self) -> None:
        """Let go of the database."""
        self._connection.close()


def missing(folder: Path) -> Iterator[str]:
    """A line for each partition that was set aside and is still there: its records are in no answer."""
    with contextlib.suppress(OSError):  # of who may ask, and not look
        for path in set_aside_files(folder):
            began = _began(path)
            since = f" from {began:%Y-%m-%d %H:%M:%S} UTC on" if began else ""
            name = path.name.partition(".damaged")[0]
            yield (
                f"answers lack what {name} had{since}: it is damaged, and was set"
                f" aside as {path}; put a good copy in its old place and start the aggregator again,"
                " or delete it"
            )


def _began(path: Path) -> datetime | None:
    stamp = path.name.partition("-")[2].partition(".")[0]
    try:
        return datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        return None

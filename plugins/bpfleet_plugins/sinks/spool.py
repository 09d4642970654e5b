"""The spool: numbered records on disk, from `write` until an aggregator has them.

A record's number (its DATA seq) is given once, whatever happens: numbers are reserved ahead, on the disk, so
that not even a loss of power brings one back. Records leave when they are confirmed or refused, or when there
are too many, or too old ones: then a gap takes the place of the oldest.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from bpfleet import Frame, SinkFull
from bpfleet_plugins.sinks.spool_file import NoRoom, SpoolFile
from bpfleet_plugins.sinks.spool_lineage import Lineage
from bpfleet_plugins.sinks.spool_losses import Losses, More, drop_oldest, tell_missing
from bpfleet_plugins.sinks.spool_marks import Marks
from bpfleet_plugins.sinks.spool_place import Damaged, unusable, what_helps
from bpfleet_plugins.sinks.spool_rows import Row, age, chunks, gap_of, rows_of
from bpfleet_plugins.sinks.spool_table import Item, Table

__all__ = ["Item", "Spool"]

T = TypeVar("T")


class Spool:
    """Records in the file at `path`. Any thread may call any method.

    `size` bounds the bytes on disk, `age` the seconds that a record may wait. `sync_interval` is how many
    seconds of records a loss of power may cost; 0 for none. `pack` makes a record what is sent. A file that
    is damaged, now or later, is set aside. Raises SinkError where the spool can't be opened.
    """

    def __init__(
        self,
        path: Path,
        user: str,
        sink: str,
        *,
        size: int,
        age: float,
        sync_interval: float,
        pack: Callable[[bytes | memoryview], bytes | memoryview] = lambda data: data,
    ) -> None:
        self._path, self._sink, self._age, self._pack = path, sink, age, pack
        self._sync_interval, self._synced = sync_interval, time.monotonic()
        # The log has two transactions at most, and the reserve room for both.
        self._chunk = max(64 << 10, min(1 << 20, size // 32))
        reserve = 3 * self._chunk
        self._limit = size - reserve - 2 * self._chunk
        self._lock = threading.RLock()
        self._confirmed = 0
        """Up to here everything is settled, even where the disk would not let us delete it yet."""
        self.dropped = 0
        """Records that made room, or were too old."""
        self._owed: list[Row] = []
        """Gaps that the disk would not take."""
        self._told: set[bytes] = set()
        """Gaps of a write that failed in the middle."""
        self._file = SpoolFile(path, user, always=not sync_interval, reserve=reserve)
        self._marks = Marks(path.with_suffix(".marks"))
        try:
            with self._mended():
                self._load()
        except BaseException:
            self._let_go()
            raise

    @property
    def id(self) -> str:
        """What tells this numbering from every other."""
        return self._table.id

    @property
    def first(self) -> int:
        """The lowest number that waits; the next one to be given where none does."""
        first = 1
        with self._lock, self._mended():
            first = self._table.first
        return max(first, self._confirmed + 1)

    @property
    def last(self) -> int:
        """No number beyond it was given so far."""
        return int(self._table.next) - 1

    def __len__(self) -> int:
        return max(0, self._table.count - self._stuck)

    def page(self, after: int, count: int, size: int, of: str) -> list[Item]:
        """The next records beyond number `after`: at most `count`, of `size` bytes together (but one always).

        None are given where `of` is no longer the numbering.
        """
        with self._lock, self._mended():
            return self._table.page(max(after, self._confirmed), count, size) if of == self.id else []
        return []

    def schema(self, number: int, of: str) -> bytes:
        """The schema that items name by `number`; b"" where `of` is no longer the numbering."""
        with self._lock, self._mended():
            return self._table.schema_data(number) if of == self.id else b""
        return b""

    def state(self) -> dict[str, float]:
        """What waits, for the status: records, bytes, oldest_s, dropped."""
        with self._lock:
            used, oldest = 0, 0.0
            with self._mended():
                used = self._file.used
                for _, row, at in self._table.oldest(self._confirmed):
                    oldest = max(0.0, age(row.origin.boot, row.t1, at))
            return {"records": len(self), "bytes": used, "oldest_s": oldest, "dropped": self.dropped}

    # ---- in

    def take(self, frames: Sequence[Frame]) -> None:
        """Add `frames`; those added before (in a write that failed after all) and schemas are left out.

        Raises SinkFull where the disk takes no more, SinkError where the spool has become unusable.
        """
        with self._lock:
            try:
                try:
                    self._add(list(self._new_rows(frames)))
                except Damaged as error:
                    self._begin_anew(str(error))
                    self._add(list(self._new_rows(frames)))
            except (NoRoom, Damaged) as error:
                raise SinkFull(
                    f"the spool takes no more records: {error}",
                    where=str(self._path),
                    remedy=f"{what_helps(str(error))}; what is spooled is delivered meanwhile",
                ) from None
            self._told.clear()

    def _new_rows(self, frames: Sequence[Frame]) -> Iterator[Row]:
        for row in rows_of(frames, self._table.taken, self._sink):
            if row.kind == "gap" and bytes(row.data) in self._told:
                continue
            data = self._pack(row.data)
            if len(data) > self._limit // 2:
                self.dropped += 1
                row = gap_of(row, self._sink, "spool_full")
                data = row.data
            yield replace(row, data=data)

    def _add(self, rows: list[Row]) -> None:
        if not (owed := self._owed) and not rows:
            return
        self._file.have_reserve()
        done = 0
        for chunk in chunks(owed + rows, self._chunk):
            self._make_room(sum(row.size for row in chunk))
            self._shorten_log()
            self._table.add(chunk)
            done += len(chunk)
            self._owed = owed[done:]
            for row in chunk:
                if row.kind == "gap":
                    self._told.add(bytes(row.data))
                else:
                    self._marks.taken(row.origin, row.last)
        self._marks.keep()
        self._sync_if_due()

    # ---- out

    def heard(self, durable: int, of: str) -> bool:
        """An aggregator has numbers up to `durable`; False where they were not ours: then we have others."""
        with self._lock, self._mended():
            return of == self.id and self._change(lambda: self._lineage.heard(durable, self._marks))
        return False

    def confirmed(self, seq: int, of: str) -> None:
        """Every record up to `seq` of the numbering `of` is safe."""
        with self._lock, self._mended():
            if of == self.id and seq > self._confirmed:
                self._confirmed = seq
                self._clear()

    def give_up(self, item: Item, of: str) -> None:
        """`item` will never be delivered: a gap `refused` tells of it."""
        with self._lock, self._mended():
            if of != self.id:
                return
            gaps: list[Row] = []

            def replaced(row: Row) -> Row:
                gaps[:] = [gap_of(row, self._sink, "refused")]
                return gaps[0]

            try:
                self._change(lambda: self._table.replace(item, replaced))
            except NoRoom:
                # It may be confirmed before there is room: the gap must not be forgotten.
                self._owed += gaps

    def tend(self) -> None:
        """What is due by the clock; call it now and then."""
        with self._lock, self._mended(), suppress(NoRoom):
            if self._stuck:
                self._clear()
            self._drop("spool_age", lambda freed, row, at: age(row.origin.boot, row.t1, at) > self._age)
            self._sync_if_due()
            if not self._table.count:
                self._file.shrink()

    def close(self) -> None:
        """Close the file; what waits is there for the next."""
        with self._lock:
            with suppress(NoRoom, Damaged):
                self._table.close()
            self._marks.keep()
            self._let_go()

    # ---- bounds

    def _make_room(self, size: int) -> None:
        if self._stuck:
            self._clear()
        # Pages are not filled to the brim.
        wanted = self._file.used + size * 3 // 2 - self._limit
        if wanted > 0:
            self._drop("spool_full", lambda freed, row, at: freed < max(wanted, self._limit // 64))

    def _drop(self, reason: str, more: More) -> None:
        losses = Losses(reason, self._sink)
        self._change(lambda: drop_oldest(self._table, self._confirmed, losses, more))
        self.dropped += losses.records

    # ---- the file

    def _load(self) -> None:
        self._change(self._read)
        self._confirmed = self._stuck = 0
        if self._file.fresh:
            tell_missing(self._table, self._marks, self._sink)
        self._file.fresh = False

    def _read(self) -> None:
        self._table = Table(self._file)
        self._lineage = Lineage(self._file, self._table)

    def _begin_anew(self, reason: str) -> None:
        self._file.begin_anew(reason)
        try:
            self._load()
        except (Damaged, NoRoom) as error:
            raise unusable(self._path, error) from None

    @contextmanager
    def _mended(self) -> Iterator[None]:
        """Where the file turns out to be damaged begin another, and leave out what was to be done."""
        try:
            yield
        except Damaged as error:
            self._begin_anew(str(error))
        except NoRoom as error:
            raise unusable(self._path, error) from None

    def _clear(self) -> None:
        """Delete what is confirmed; where not even the reserve gives room for that, it is tried again."""
        try:
            self._change(lambda: self._table.delete_up_to(self._confirmed, self._marks.settled))
            self._shorten_log()
            self._stuck = 0
        except NoRoom:
            self._stuck = self._table.count_up_to(self._confirmed)
        self._marks.keep()

    def _change(self, change: Callable[[], T]) -> T:
        """Do what makes the spool smaller: on a full disk in the room of the reserve."""
        try:
            return change()
        except NoRoom:
            self._file.use_reserve()
            return change()

    def _shorten_log(self) -> None:
        if self._file.pending >= self._chunk:
            self._file.checkpoint()

    def _sync_if_due(self) -> None:
        now = time.monotonic()
        if self._sync_interval and self._file.pending and now - self._synced >= self._sync_interval:
            self._synced = now
            with suppress(NoRoom):
                self._file.checkpoint()

    def _let_go(self) -> None:
        self._marks.close()
        self._file.close()

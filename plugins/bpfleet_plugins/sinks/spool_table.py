"""The records of a spool in its tables: numbered, added, paged, deleted.

Everything here raises Damaged or NoRoom, and is called by one thread at a time.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from bpfleet import Frame
from bpfleet.wire import Origin
from bpfleet_plugins.sinks.spool_file import SpoolFile
from bpfleet_plugins.sinks.spool_place import Damaged
from bpfleet_plugins.sinks.spool_rows import Row

__all__ = ["Item", "Table"]

_AHEAD = 1 << 16
"""Numbers reserved at a time."""
_AT_ONCE = 500
_MOST = (1 << 63) - 1
_DELETING = 32 << 10
"""Bytes that deleting some rows writes, about."""
_ORIGINS_KEPT = 16


@dataclass(frozen=True, slots=True)
class Item:
    """One record as it is sent."""

    seq: int
    kind: str
    schema: int
    """What `schema_data` gives for it; 0 where it needs none."""
    data: bytes


@dataclass(slots=True)
class _Origin:
    number: int
    taken: int
    """The highest seq of it that was ever added."""


class Table:
    """What waits in `file`."""

    def __init__(self, file: SpoolFile) -> None:
        self._file = file
        self._origins: dict[Origin, _Origin] = {}
        self._by_number: dict[int, Origin] = {}
        self._schemas: dict[bytes, int] = {}
        self.id: str
        self.count: int
        self.next: int
        """The number that the next record gets."""
        (self.id, reserved), *_ = self._read("SELECT id, reserved FROM meta")
        ((last, self.count),) = self._read("SELECT max(seq), count(*) FROM records")
        self.next = max(int(reserved), int(last or 0) + 1)
        self._reserved = self.next
        self._forget_what_is_over()
        for number, agent, host, boot, run, taken in self._read("SELECT * FROM origins ORDER BY id"):
            self._know(Origin(agent, host, boot, run), number, taken)
        for number, digest in self._read("SELECT id, digest FROM schemas"):
            self._schemas[digest] = number

    # ---- reading

    @property
    def first(self) -> int:
        """The lowest number there is; `next` where there is none."""
        ((seq,),) = self._read("SELECT min(seq) FROM records")
        return self.next if seq is None else int(seq)

    def taken(self, origin: Origin) -> int:
        """The highest seq of this origin that was ever added; 0 for none."""
        found = self._origins.get(origin)
        return found.taken if found else 0

    def count_up_to(self, seq: int) -> int:
        """How many there are up to number `seq`."""
        ((count,),) = self._read("SELECT count(*) FROM records WHERE seq <= ?", seq)
        return int(count)

    def page(self, after: int, count: int, size: int) -> list[Item]:
        """The next records beyond `after`: at most `count`, of `size` bytes together, but one at least."""
        until, left = after, size
        heads = "SELECT seq, size FROM records WHERE seq > ? ORDER BY seq LIMIT ?"
        for seq, length in self._read(heads, after, count):
            left -= length
            if until > after and left < 0:
                break
            until = seq
        rows = self._read(
            "SELECT r.seq, r.kind, r.schema, f.data FROM records r LEFT JOIN frames f ON f.seq = r.seq"
            " WHERE r.seq > ? AND r.seq <= ? ORDER BY r.seq",
            after,
            until,
        )
        if any(data is None for *_, data in rows):
            raise Damaged("records are missing in it")
        return [Item(*row) for row in rows]

    def schema_data(self, number: int) -> bytes:
        """The schema that items name by `number`."""
        found = self._read("SELECT data FROM schemas WHERE id = ?", number)
        if not found:
            raise Damaged("a schema is missing in it")
        return bytes(found[0][0])

    def oldest(self, after: int = 0, count: int = 1, until: int = _MOST) -> list[tuple[int, Row, float]]:
        """(number, row without data, Unix time of adding) of the first `count` rows in (after, until]."""
        rows = self._read(
            "SELECT seq, kind, origin, first, last, count, reason, t1, at, size FROM records"
            " WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?",
            after,
            until,
            count,
        )
        found = []
        for seq, kind, number, first, last, many, reason, t1, at, size in rows:
            if number not in self._by_number:
                raise Damaged("an origin is missing in it")
            row = Row(kind, self._by_number[number], first, last, many, reason, t1, b"", stored=size)
            found.append((seq, row, at))
        return found

    # ---- changing

    def add(self, rows: Sequence[Row]) -> None:
        """Add `rows` with the next numbers."""
        if self.next + len(rows) > self._reserved:
            self._reserve(self.next + len(rows) + _AHEAD)
        for row in rows:
            self._prepare(row)
        with self._file.transaction() as db:
            for seq, row in enumerate(rows, self.next):
                self._put(db.execute, seq, row)
            for origin in {row.origin for row in rows}:
                taken = max(
                    (row.last for row in rows if row.origin == origin and row.kind != "gap"), default=0
                )
                known = self._origins[origin]
                db.execute("UPDATE origins SET taken = max(taken, ?) WHERE id = ?", (taken, known.number))
        self.next += len(rows)
        self.count += len(rows)
        self._file.pending += sum(row.size for row in rows)
        for row in rows:
            if row.kind != "gap":
                self.remember(row.origin, row.last)

    def remember(self, origin: Origin, taken: int) -> None:
        """Records of `origin` up to `taken` need not be added again (while this process lives)."""
        known = self._origins.get(origin)
        if known is not None:
            known.taken = max(known.taken, taken)

    def delete_up_to(self, seq: int, settled: Callable[[Origin, int], None]) -> None:
        """Delete the rows up to `seq`, and say of each origin up to which of its seqs."""
        while rows := self.oldest(0, _AT_ONCE, seq):
            with self._file.transaction() as db:
                self._delete(db.execute, rows[-1][0])
            self.count -= len(rows)
            self._file.pending += _DELETING
            for _, row, _ in rows:
                settled(row.origin, row.last)

    def drop(self, until: int, gaps: Iterable[tuple[int, Row]]) -> None:
        """Delete the rows up to `until`, put `gaps` (number, row) in their place."""
        gaps = list(gaps)
        with self._file.transaction() as db:
            gone = self._delete(db.execute, until)
            for seq, row in gaps:
                self._put(db.execute, seq, row)
        self.count += len(gaps) - gone
        self._file.pending += gone * 8 + _DELETING

    def replace(self, item: Item, gap: Callable[[Row], Row]) -> bool:
        """Delete `item`'s row, and add a gap made of it (of a gap nothing); False where it has gone."""
        found = [
            row for seq, row, _ in self.oldest(item.seq - 1) if seq == item.seq and row.kind == item.kind
        ]
        if not found:
            return False
        gaps = [gap(found[0])] if item.kind != "gap" else []
        if self.next + 1 > self._reserved:
            self._reserve(self.next + _AHEAD)
        with self._file.transaction() as db:
            for table in ("records", "frames"):
                db.execute(f"DELETE FROM {table} WHERE seq = ?", (item.seq,))
            for seq, row in enumerate(gaps, self.next):
                self._put(db.execute, seq, row)
        self.next += len(gaps)
        self.count += len(gaps) - 1
        return True

    def close(self) -> None:
        """Give back the numbers that were reserved and not used."""
        with self._file.transaction() as db:
            db.execute("UPDATE meta SET reserved = ?", (self.next,))
        self._file.checkpoint()

    def _reserve(self, until: int) -> None:
        """On the disk before one of them is used."""
        with self._file.transaction() as db:
            db.execute("UPDATE meta SET reserved = ?", (until,))
        self._file.checkpoint()
        self._reserved = until

    def _prepare(self, row: Row) -> None:
        """Have its origin and its schema in their tables."""
        if row.origin not in self._origins:
            with self._file.transaction() as db:
                one = row.origin
                values = (one.agent, one.host, one.boot, one.run)
                made = db.execute("INSERT INTO origins VALUES (NULL, ?, ?, ?, ?, 0)", values)
                number = made.lastrowid or 0
            self._know(row.origin, number, 0)
        if row.schema is not None and (digest := _digest(row.schema)) not in self._schemas:
            with self._file.transaction() as db:
                content = (digest, bytes(row.schema.data))
                number = db.execute("INSERT INTO schemas VALUES (NULL, ?, ?)", content).lastrowid or 0
            self._schemas[digest] = number

    def _put(self, execute: Callable[..., Any], seq: int, row: Row) -> None:
        schema = 0 if row.schema is None else self._schemas[_digest(row.schema)]
        origin = self._origins[row.origin].number
        values = (seq, row.kind, origin, row.first, row.last, row.count, row.reason, schema, row.size, row.t1)
        execute("INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", (*values, time.time()))
        execute("INSERT INTO frames VALUES (?, ?)", (seq, row.data))

    def _delete(self, execute: Callable[..., Any], until: int) -> int:
        execute("DELETE FROM frames WHERE seq <= ?", (until,))
        return int(execute("DELETE FROM records WHERE seq <= ?", (until,)).rowcount)

    def _know(self, origin: Origin, number: int, taken: int) -> None:
        self._origins[origin] = _Origin(number, taken)
        self._by_number[number] = origin

    def _forget_what_is_over(self) -> None:
        """Schemas and origins that no record needs; the latest origins stay, they may be the current one."""
        with self._file.transaction() as db:
            db.execute("DELETE FROM schemas WHERE id NOT IN (SELECT schema FROM records)")
            db.execute(
                "DELETE FROM origins WHERE id NOT IN (SELECT origin FROM records)"
                " AND id NOT IN (SELECT id FROM origins ORDER BY id DESC LIMIT ?)",
                (_ORIGINS_KEPT,),
            )

    def _read(self, query: str, *values: Any) -> list[Any]:
        with self._file.explained():
            return self._file.db.execute(query, values).fetchall()


def _digest(schema: Frame) -> bytes:
    return hashlib.sha256(schema.data).digest()[:16]

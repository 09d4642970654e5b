"""Whether a spool's numbers are still its own: one restored from a backup has numbers that were used since.

`since` is the number that was the next when this file was opened first after an aggregator was last heard:
nothing from there on has been sent by it. Where an aggregator has such a number nevertheless, it is from
the file that went on after the backup was made, which had delivered, or told of, all that waits here below
`since`. What waits from `since` on was taken after the restore, and goes on under another id.
"""

from __future__ import annotations

import logging
import uuid

from bpfleet_plugins.sinks.spool_file import SpoolFile
from bpfleet_plugins.sinks.spool_marks import Marks
from bpfleet_plugins.sinks.spool_table import Table

__all__ = ["Lineage"]

log = logging.getLogger("bpfleet.sink.zmq")


class Lineage:
    """Of one open file. Raises Damaged or NoRoom, as its table does."""

    def __init__(self, file: SpoolFile, table: Table) -> None:
        self._file, self._table = file, table
        with file.transaction() as db:
            db.execute("CREATE TABLE IF NOT EXISTS unheard (since INTEGER NOT NULL)")
            found = db.execute("SELECT since FROM unheard").fetchone()
            if found is None:
                db.execute("INSERT INTO unheard VALUES (?)", (table.next,))
        self._since: int | None = int(found[0]) if found else table.next
        if found is None:
            # On the disk before anything is given that it tells apart.
            file.checkpoint()

    def heard(self, durable: int, marks: Marks) -> bool:
        """An aggregator has numbers up to `durable`; False where they were not ours, and we have new ones."""
        if self._since is None:
            return True
        if durable < self._since:
            with self._file.transaction() as db:
                db.execute("DELETE FROM unheard")
            self._since = None
            return True
        before, was = self._table.id, self._table.count
        self._table.delete_up_to(self._since - 1, marks.settled)
        number = uuid.uuid4().hex
        with self._file.transaction() as db:
            db.execute("UPDATE meta SET id = ?", (number,))
        self._file.checkpoint()
        self._table.id = number
        log.warning(
            "the spool %s is older than what was delivered of it, as if restored from a backup: the"
            " aggregator has records up to %d, it had given %d. %d records that were delivered then are left"
            " out, %d wait under another id (%s, it was %s)",
            self._file.path,
            durable,
            self._since - 1,
            was - self._table.count,
            self._table.count,
            number,
            before,
        )
        return False

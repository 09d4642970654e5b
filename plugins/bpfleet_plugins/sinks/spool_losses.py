"""What becomes of records that a spool drops: one gap for each origin, in their place."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from bpfleet.wire import Origin
from bpfleet_plugins.sinks.spool_marks import Marks
from bpfleet_plugins.sinks.spool_rows import Row, gap_row
from bpfleet_plugins.sinks.spool_table import Table

__all__ = ["Losses", "More", "drop_oldest", "tell_missing"]

More = Callable[[int, Row, float], bool]
"""Whether a row goes too: (bytes freed so far, the row, Unix time of its adding)."""

_AT_ONCE = 500


class Losses:
    """Rows that go, joined: one gap for each origin and reason, in the place of the last that it tells of."""

    def __init__(self, reason: str, sink: str) -> None:
        self._reason, self._sink = reason, sink
        self._of: dict[tuple[Origin, str], tuple[int, Row]] = {}
        self.records = 0
        """Records lost, gaps that were there before left out."""

    def clear(self) -> None:
        """Begin again."""
        self._of.clear()
        self.records = 0

    def add(self, seq: int, row: Row) -> None:
        """The row with number `seq` goes; call it by ascending number."""
        if row.kind != "gap":
            self.records += 1
        key = row.origin, row.reason or self._reason
        _, before = self._of.get(key, (0, None))
        if before is not None:
            row = replace(
                row,
                first=min(before.first, row.first),
                last=max(before.last, row.last),
                count=before.count + row.count,
                t1=max(before.t1, row.t1),
            )
        self._of[key] = seq, row

    def gaps(self) -> Iterable[tuple[int, Row]]:
        """(number, row) of the gaps."""
        for (origin, reason), (seq, row) in self._of.items():
            told = gap_row(origin, row.first, row.last, row.count, reason, sink=self._sink, t1=row.t1)
            yield seq, told


def drop_oldest(table: Table, after: int, losses: Losses, more: More) -> None:
    """Delete the rows up to number `after`, settled ones, and of the others the oldest, as `more` says."""
    losses.clear()
    until, freed = after, 0
    while rows := table.oldest(until, _AT_ONCE):
        for seq, row, at in rows:
            if not more(freed, row, at):
                break
            losses.add(seq, row)
            until = seq
            freed += row.size if row.kind != "gap" else 0
        else:
            continue
        break
    # Gaps alone stay as they are: nothing is gained by telling them anew.
    if losses.records:
        table.drop(until, losses.gaps())


def tell_missing(table: Table, marks: Marks, sink: str) -> None:
    """The table is a new one: what is known to have been in the one before is told."""
    for origin, first, last in marks.missing():
        table.add([gap_row(origin, first, last, last - first + 1, "spool_damaged", sink=sink)])
        table.remember(origin, last)

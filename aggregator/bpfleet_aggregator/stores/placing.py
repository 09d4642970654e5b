"""When a record is of, and which rows of its snapshot a part holds: the same in every store."""

from __future__ import annotations

from bpfleet.wire import Snapshot

__all__ = ["RowStarts", "micros"]

_LATEST = 10_413_791_999_999_999
"""2299-12-31 23:59:59.999999, the last moment that every store can say."""


def micros(nanoseconds: int) -> int:
    """Unix time in µs of one in ns; what no store can say becomes the nearest that all can (1970 to 2299)."""
    return min(max(nanoseconds // 1000, 0), _LATEST)


class RowStarts:
    """Which row of the whole snapshot the first row of a part is.

    All parts but the last have the same number of rows, so only the last one needs those before: the part
    before it, where that has been seen, else what the record says of all parts together.
    """

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str, int, str], tuple[int, int]] = {}

    def of(self, snapshot: Snapshot) -> int:
        """The index of the first row of `snapshot` in its whole."""
        if snapshot.parts == 1:
            return 0
        origin = snapshot.origin
        stream = (origin.agent, origin.boot, origin.run, snapshot.schema.id)
        read = snapshot.seq - snapshot.part
        if snapshot.part < snapshot.parts - 1:
            self._rows[stream] = (read, snapshot.rows)
            return snapshot.part * snapshot.rows
        seen, rows = self._rows.pop(stream, (None, 0))
        if seen == read:
            return snapshot.part * rows
        before = snapshot.entries - snapshot.losses.get("truncated", 0) - snapshot.rows
        return before if before > 0 and before % snapshot.part == 0 else snapshot.part * snapshot.rows

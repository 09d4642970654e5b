"""Spools for tests, and what is in them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bpfleet.wire import Gap, Record, Snapshot, Status
from bpfleet_plugins.sinks.spool import Item, Spool
from sample_records import COUNTS_FRAME, decoded


def open_spool(folder: Path, **changes: Any) -> Spool:
    """A spool in `folder`, which is made; records are not compressed."""
    options: dict[str, Any] = {"size": 16 << 20, "age": 1e9, "sync_interval": 5.0}
    return Spool(folder / "test.sqlite", "root", "test", **(options | changes))


def items(spool: Spool, after: int = 0) -> list[Item]:
    """All that waits beyond number `after`, page by page."""
    found: list[Item] = []
    while page := spool.page(found[-1].seq if found else after, 50, 1 << 20, spool.id):
        found += page
    return found


def record_of(item: Item) -> Record:
    return decoded([COUNTS_FRAME.data, item.data])[1]


def records(spool: Spool) -> list[Record]:
    """The same, decoded."""
    return [record_of(item) for item in items(spool)]


def gaps(spool: Spool) -> list[Gap]:
    return [one for one in records(spool) if isinstance(one, Gap)]


def seqs(spool: Spool) -> list[int]:
    """The origins' seqs of the snapshots and statuses that wait."""
    return [one.seq for one in records(spool) if isinstance(one, Snapshot | Status)]


def told(found: list[Gap]) -> Iterator[int]:
    """The seqs that gaps tell of."""
    for gap in found:
        yield from range(gap.first, gap.last + 1)


def on_disk(folder: Path) -> int:
    """Bytes of all the files of a spool."""
    return sum(one.stat().st_size for one in folder.iterdir())

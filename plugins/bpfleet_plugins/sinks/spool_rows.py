"""What a spool keeps of each record."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from bpfleet import Frame
from bpfleet.wire import Gap, Origin, encode_gap

__all__ = ["Row", "age", "chunks", "gap_of", "gap_row", "rows_of"]

_BOOT = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
_ROW_BYTES = 120


class _Head(msgspec.Struct):
    """The fields of a record that its row needs; the others are skipped without being built."""

    agent: str
    host: str
    boot: str
    run: int
    seq: int
    t1: int
    first: int = 0
    last: int = 0
    count: int = 1
    reason: str = ""
    sink: str = ""


_head = msgspec.msgpack.Decoder(_Head).decode


@dataclass(slots=True)
class Row:
    """One record: `first` to `last` are the origin's seqs that it is (a gap: tells of), `count` how many."""

    kind: str
    origin: Origin
    first: int
    last: int
    count: int
    reason: str
    """Of a gap; "" of everything else."""
    t1: int
    data: bytes | memoryview = field(repr=False)
    schema: Frame | None = None
    stored: int = 0
    """Of a row that was read without its data: what `size` was."""

    @property
    def size(self) -> int:
        """Bytes, about, that it takes in the file."""
        return self.stored or len(self.data) + _ROW_BYTES


def rows_of(frames: Iterable[Frame], taken: Callable[[Origin], int], sink: str) -> Iterator[Row]:
    """Rows of `frames`, not compressed yet: schemas left out, and what is in the spool already.

    `taken` says up to which of an origin's seqs that is.
    """
    for frame in frames:
        if frame.kind == "schema":
            continue
        head = _head(frame.data)
        origin = Origin(head.agent, head.host, head.boot, head.run)
        there = taken(origin)
        if frame.kind != "gap":
            if head.seq > there:
                yield Row(frame.kind, origin, head.seq, head.seq, 1, "", head.t1, frame.data, frame.schema)
            continue
        row = Row("gap", origin, head.first, head.last, head.count, head.reason, head.t1, frame.data)
        if row.reason != "worker_restart" or row.first > there:
            yield row
        elif row.last > there:
            # The worker before died between spooling and saying so.
            yield gap_of(row, sink, first=there + 1)


def gap_row(origin: Origin, first: int, last: int, count: int, reason: str, *, sink: str, t1: int = 0) -> Row:
    """A gap that is told now; one of another boot, whose clock has ended, at `t1`."""
    if origin.boot == _BOOT or not t1:
        t1 = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    count = max(1, min(count, last - first + 1))
    gap = Gap(
        origin=origin, seq=last + 1, first=first, last=last, count=count, reason=reason, sink=sink, t1=t1
    )
    return Row("gap", origin, first, last, count, reason, t1, encode_gap(gap).data)


def gap_of(row: Row, sink: str, reason: str = "", *, first: int = 0) -> Row:
    """A gap that tells of `row`, or (of a gap) of its seqs from `first` on; its own reason unless given."""
    first = first or row.first
    count = row.count if first == row.first else row.last - first + 1
    return gap_row(row.origin, first, row.last, count, reason or row.reason, sink=sink, t1=row.t1)


def age(boot: str, t1: int, at: float) -> float:
    """Seconds since a record was made (`t1`) and spooled (`at`, Unix time).

    Within one boot the wall clock, which may be set by years, has no say.
    """
    if boot == _BOOT:
        return (time.clock_gettime_ns(time.CLOCK_BOOTTIME) - t1) / 1e9
    return time.time() - at


def chunks(rows: Sequence[Row], size: int) -> Iterator[Sequence[Row]]:
    """`rows` in pieces of at most `size` bytes, of one row at least."""
    start = held = 0
    for at, row in enumerate(rows):
        if at > start and held + row.size > size:
            yield rows[start:at]
            start, held = at, 0
        held += row.size
    if rows:
        yield rows[start:]

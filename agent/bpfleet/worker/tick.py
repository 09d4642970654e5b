"""One tick of one collector: read its maps, make records, hand them to the sinks.

This is the agent's main path. Nothing here does Python work per map row: a read gives numpy views over the
bytes that the kernel wrote, and encoding copies each column once, into the frame that the sinks get.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from bpfleet.errors import ReadError
from bpfleet.kernel import boottime_ns, run_iterator, run_program
from bpfleet.wire import Frame, Origin, Snapshot, encode_snapshot
from bpfleet.worker.collecting import RunningCollector
from bpfleet.worker.ledger import Ledger

__all__ = ["Receiver", "tick"]


class Receiver(Protocol):
    """Where records go: a sink's queue."""

    def offer(self, frame: Frame) -> None: ...


@contextmanager
def _refused(collector: RunningCollector, what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ReadError(
            f"{what}: {error.strerror}",
            where=f"collector {collector.name!r}",
            remedy="it is tried again, ever less often",
        ) from None


def tick(
    collector: RunningCollector,
    origin: Origin,
    ledger: Ledger,
    sinks: Sequence[Receiver],
    frame_size: int,
) -> None:
    """Take one snapshot of each of the collector's maps; raises ReadError where the kernel refuses a read."""
    with _refused(collector, "a program can't be run before the snapshot"):
        if collector.before_snapshot is not None:
            run_program(collector.before_snapshot)
        for link in collector.iterators:
            run_iterator(link)
    with _refused(collector, "the file of a number can't be read"):
        for file in collector.files:
            file.look()

    for one in collector.maps:
        with _refused(collector, f"map {one.name!r} can't be read"):
            t0 = boottime_ns()
            read = one.read()
            t1 = boottime_ns()

            for table in one.tables(read):
                snapshot = Snapshot(
                    schema=table.schema,
                    origin=origin,
                    generation=collector.generation,
                    seq=ledger.next_seq,
                    t0=t0,
                    t1=t1,
                    wall_offset=time.time_ns() - boottime_ns(),
                    rows=table.read.rows,
                    columns=table.read.columns,
                    method=table.read.method,
                    complete=table.read.complete,
                    entries=table.read.entries,
                    max_entries=table.max_entries,
                    losses=table.losses,
                )
                for frame in encode_snapshot(snapshot, table.schema_frame, most=frame_size):
                    ledger.used(frame.seq)
                    one.cost.bytes += len(frame.data)
                    for sink in sinks:
                        sink.offer(frame)

        one.told()
        one.cost.took(read, t1 - t0)

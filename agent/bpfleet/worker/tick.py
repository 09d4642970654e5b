"""One tick of one collector: read its maps, make records, hand them to the sinks.

This is the agent's main path. Nothing here does Python work per map row: a read gives numpy views over the
bytes that the kernel wrote, and encoding copies each column once, into the frame that the sinks get.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Protocol

from bpfleet.kernel import boottime_ns, run_iterator, run_program
from bpfleet.wire import Frame, Origin, Snapshot, encode_snapshot
from bpfleet.worker.collecting import RunningCollector
from bpfleet.worker.ledger import Ledger

__all__ = ["Receiver", "tick"]


class Receiver(Protocol):
    """Where records go: a sink's queue."""

    def offer(self, frame: Frame) -> None: ...


def tick(
    collector: RunningCollector,
    origin: Origin,
    ledger: Ledger,
    sinks: Sequence[Receiver],
    frame_size: int,
) -> None:
    """Take one snapshot of each of the collector's maps; raises OSError where the kernel refuses a read."""
    if collector.before_snapshot is not None:
        run_program(collector.before_snapshot)
    for link in collector.iterators:
        run_iterator(link)
    for file in collector.files:
        file.look()

    for one in collector.maps:
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

"""What a store must know to go on: marks, streams, the next numbers. Read from the newest partition."""

from __future__ import annotations

import duckdb
import pyarrow as pa

from bpfleet_aggregator.stores.duckdb.partitions import Partition
from bpfleet_aggregator.stores.duckdb.streams import Streams
from bpfleet_aggregator.stores.duckdb.tables import arrow_table

__all__ = ["SHIFT", "Marks", "State"]

SHIFT = 32
"""A number of a snapshot, shifted so far, is that of the partition that it was stored in."""

Marks = dict[tuple[str, str], int]
"""The highest durable seq of each (agent, spool)."""


class State:
    """In memory; `keep` once a batch is durable, `load` after a failure."""

    def __init__(self) -> None:
        self.marks: Marks = {}
        self.streams = Streams()
        self.next_snapshot = 0
        self.next_row = 0

    def begin(self, partition: Partition) -> None:
        """The partition is new: its numbers are above those of all before."""
        self.next_snapshot = partition.number << SHIFT
        self.next_row = 0

    def load(self, connection: duckdb.DuckDBPyConnection, partition: Partition) -> None:
        """From the newest partition, which has taken over what all before it knew."""
        newest = partition.alias
        marks = connection.execute(_MARKS.format(p=newest)).fetchall()
        self.marks = {(agent, spool): seq for agent, spool, seq in marks}
        carried = connection.execute(f"SELECT * FROM {newest}.streams").fetchall()
        stored = connection.execute(_STREAMS.format(p=newest)).fetchall()
        self.streams.restore(carried, stored)
        snapshot, row = connection.execute(
            f"""SELECT max(snapshot), max(base + "rows") FROM {newest}.snapshots"""
        ).fetchall()[0]
        self.next_snapshot = snapshot + 1 if snapshot is not None else partition.number << SHIFT
        self.next_row = max(row or 0, 0)

    def carried(self, since: int) -> dict[str, pa.Table]:
        """What a new partition begins with; of the streams, those since then (Unix time, ns)."""
        marks = [(agent, spool, seq) for (agent, spool), seq in self.marks.items()]
        return {
            "marks": arrow_table("marks", marks),
            "streams": arrow_table("streams", self.streams.rows(since)),
        }


_MARKS = """
SELECT agent, spool, max(seq) FROM (
    SELECT agent, spool, seq FROM {p}.marks
    UNION ALL SELECT agent, spool, spool_seq FROM {p}.snapshots
    UNION ALL SELECT agent, spool, spool_seq FROM {p}.gaps
    UNION ALL SELECT agent, spool, spool_seq FROM {p}.statuses
) GROUP BY ALL"""

_STREAMS = """
SELECT agent, schema, boot, generation, any_value(run), any_value(seq - part), read, max(t1),
       CASE WHEN count(DISTINCT part) = max(part) - min(part) + 1 THEN count(DISTINCT part) ELSE -1 END,
       max(parts), bool_and(complete), any_value(before), any_value(before_t1), any_value(before_whole),
       max(epoch_ns(received)), min(part)
FROM {p}.snapshots
JOIN (
    SELECT agent, schema, boot, generation, max(read) AS read
    FROM {p}.snapshots WHERE NOT late GROUP BY ALL
) USING (agent, schema, boot, generation, read)
GROUP BY ALL"""

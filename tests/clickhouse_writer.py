"""Writes to a ClickHouse store as an aggregator's committer does, and may be killed at any moment.

    clickhouse_writer.py URL DATABASE RECORDS BATCH

Delivers records 1 to RECORDS of one spool: asks for the mark, sends what follows in batches, and goes on
until
the mark is the last one. Prints `ready` when it begins and `done` at the end.
"""

from __future__ import annotations

import sys
from pathlib import Path

from bpfleet.stores import Received, StoreContext
from bpfleet_aggregator.stores.clickhouse.settings import ClickhouseSettings
from bpfleet_aggregator.stores.clickhouse.store import open_store
from fleet_records import CALLS, GLOBALS, gap, received, snapshot, status

SPOOL = ("a1", "s1")


def record(number: int) -> Received:
    """Record `number` of the spool: every sort by turns."""
    made = [
        lambda: snapshot(
            CALLS, [(b"sh", i, number, i, [i] * 6, 0) for i in range(5)], seq=number, seconds=20 + number
        ),
        lambda: snapshot(GLOBALS, [(number, 0.5), (2, 0.5)], seq=number, seconds=20 + number),
        lambda: status(number, 20 + number),
        lambda: gap(number, number),
    ][number % 4]()
    (one,) = received([made], first=number)
    return one


def main(url: str, database: str, records: int, batch: int) -> None:
    store = open_store(
        ClickhouseSettings(url=url, database=database), StoreContext("clickhouse", Path("/nonexistent"))
    )
    print("ready", flush=True)
    (mark,) = store.marks([SPOOL])
    while mark < records:
        store.commit([record(number) for number in range(mark + 1, min(mark + batch, records) + 1)])
        (mark,) = store.marks([SPOOL])
    print("done", flush=True)
    store.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))

"""Writes to a store until it is killed; says after each batch how far it has come."""

from __future__ import annotations

import sys
from pathlib import Path

from bpfleet.settings import Duration, Size
from bpfleet_aggregator.stores.duckdb import DuckdbSettings, DuckdbStore
from store_records import COUNTS, Agent, context


def main(folder: str) -> None:
    settings = DuckdbSettings(retention=Duration(10**9), partition=Duration(0.7), size_limit=Size(1 << 30))
    store = DuckdbStore(settings, context(Path(folder)))
    agent = Agent()
    (mark,) = store.marks([(agent.name, agent.spool)])
    agent.seq = agent.spool_seq = mark
    print(f"begins {mark}", flush=True)
    while True:
        at = 10 + agent.spool_seq
        batch = [agent.snapshot(COUNTS, [("sh", at + i), ("ls", 1), ("cat", 2)], at + i) for i in range(20)]
        store.commit(batch)
        store.maintain()
        print(f"stored {agent.spool_seq}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])

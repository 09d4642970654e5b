"""What was acknowledged is stored, and once, whatever crashed meanwhile.

The short form. `BPFLEET_ORACLE_KILLS=60` makes it long, `BPFLEET_ORACLE_SEED` another one.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

import sqlite_store
from bpfleet import StoreContext
from bpfleet_aggregator.stores.duckdb.reader import open_reader
from bpfleet_aggregator.stores.duckdb.settings import DuckdbSettings
from oracle import Oracle, Stored, StoreUnderTest

KILLS = int(os.environ.get("BPFLEET_ORACLE_KILLS", "6"))
SEED = int(os.environ.get("BPFLEET_ORACLE_SEED", "1"))


def rows_of_sqlite(state: Path) -> Stored:
    """The store of the tests: a record's content is `name` and `number`."""
    found: dict[str, Counter[int]] = {}
    for agent, _, _, kind, content in sqlite_store.stored(state):
        assert kind == "Snapshot"
        found.setdefault(agent, Counter())[int.from_bytes(content[16:24], "little")] += 1
    return found


def rows_of_duckdb(state: Path) -> Stored:
    """The embedded store, asked as anyone would."""
    found: dict[str, Counter[int]] = {}
    reader = open_reader(DuckdbSettings(), StoreContext("duckdb", state))
    try:
        for batch in reader.query("SELECT agent, number FROM oracle_records"):
            for agent, number in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                found.setdefault(agent, Counter())[number] += 1
    finally:
        reader.close()
    return found


STORES = {
    "rows": StoreUnderTest("[store.rows]", rows_of_sqlite),
    "duckdb": StoreUnderTest("[store.duckdb]", rows_of_duckdb),
}


@pytest.mark.timeout(120 + 15 * KILLS)
@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "curve"])
@pytest.mark.parametrize("store", STORES)
def test_what_is_acknowledged_is_stored_once(shared_path: Path, store: str, encrypted: bool) -> None:
    oracle = Oracle(shared_path, STORES[store], SEED, encrypted)
    oracle.run(KILLS)
    print(dict(oracle.counts))
    assert oracle.counts["kill"] >= KILLS
    assert oracle.counts["promised"] > 50

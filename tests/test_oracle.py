"""What was acknowledged is stored, and once, whatever crashed meanwhile.

The short form: each store once. `BPFLEET_ORACLE_KILLS=60` makes it long, each store with keys and without,
with shards and without;
`BPFLEET_ORACLE_SEED` is another order of faults.
"""

from __future__ import annotations

import csv
import os
import subprocess
from collections import Counter
from pathlib import Path

import pytest

import sqlite_store
from agent_process import BPFLEET
from bpfleet import StoreContext
from bpfleet_aggregator.stores.duckdb.reader import open_reader
from bpfleet_aggregator.stores.duckdb.settings import DuckdbSettings
from oracle import Oracle, Stored, StoreUnderTest

KILLS = int(os.environ.get("BPFLEET_ORACLE_KILLS", "4"))
SEED = int(os.environ.get("BPFLEET_ORACLE_SEED", "1"))
QUESTION = "SELECT agent, number FROM oracle_records"


def rows_of_sqlite(oracle: Oracle) -> Stored:
    """The store of the tests: a record's content is `name` and `number`."""
    found: dict[str, Counter[int]] = {}
    for agent, _, _, kind, content in sqlite_store.stored(oracle.directory / "aggregator"):
        if kind == "Snapshot":  # else a gap: what a damaged spool, or a full disk, has lost
            found.setdefault(agent, Counter())[int.from_bytes(content[16:24], "little")] += 1
    return found


def rows_of_duckdb(oracle: Oracle) -> Stored:
    """The embedded store, asked as anyone would."""
    found: dict[str, Counter[int]] = {}
    reader = open_reader(DuckdbSettings(), StoreContext("duckdb", oracle.directory / "aggregator"))
    try:
        for batch in reader.query(QUESTION):
            for agent, number in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                found.setdefault(agent, Counter())[number] += 1
    finally:
        reader.close()
    return found


def rows_of_clickhouse(oracle: Oracle) -> Stored:
    """By `bpfleet query`, in the namespace where the server is."""
    words = [BPFLEET, "query", "--config", str(oracle.directory / "aggregator.toml"), "--format", "csv"]
    done = subprocess.run(
        [*oracle.network.inside(oracle.network.a), *words, QUESTION],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Counter[int]] = {}
    for agent, number in list(csv.reader(done.stdout.splitlines()))[1:]:
        found.setdefault(agent, Counter())[int(number)] += 1
    return found


STORES = {
    "rows": StoreUnderTest("[store.rows]", rows_of_sqlite),
    "duckdb": StoreUnderTest("[store.duckdb]", rows_of_duckdb),
    "clickhouse": StoreUnderTest(
        '[store.clickhouse]\nurl = "{url}"\ntimeout = "10s"', rows_of_clickhouse, True
    ),
}
SHORT = [("rows", False, 1), ("duckdb", True, 2), ("clickhouse", True, 1)]
LONG = [(store, encrypted, shards) for store in STORES for encrypted in (False, True) for shards in (1, 2)]


@pytest.mark.timeout(600 + 20 * KILLS)
@pytest.mark.parametrize(
    ("store", "encrypted", "shards"),
    LONG if "BPFLEET_ORACLE_KILLS" in os.environ else SHORT,
    ids=lambda value: {True: "curve", False: "plain"}[value] if isinstance(value, bool) else str(value),
)
def test_what_is_acknowledged_is_stored_once(
    shared_path: Path, store: str, encrypted: bool, shards: int
) -> None:
    oracle = Oracle(shared_path, STORES[store], SEED, encrypted, shards)
    oracle.run(KILLS)
    print(dict(oracle.counts))
    assert oracle.kills >= KILLS
    assert oracle.counts["promised"] > 50
    assert not oracle.missing

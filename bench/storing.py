"""storing: rows a second into both stores, beside their engines' own ways to insert the same rows.

A store takes frames and keeps repeats out; the peers get the same rows ready made, in the form that suits
them best, and only insert them. All take frames of the same fleet, turn by turn.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import clickhouse_driver
import duckdb
import numpy as np
import pyarrow as pa

from bench.clickhouse import RunningServer, running_server
from bench.rounds import Contender, interleave
from bench.store import ROWS, Fleet
from bench.tables import Table, si
from bpfleet.settings import Size
from bpfleet.stores import Received, Store, StoreContext
from bpfleet.wire import Snapshot
from bpfleet_aggregator.stores.clickhouse.native import InsertColumn, encoded_block
from bpfleet_aggregator.stores.clickhouse.settings import ClickhouseSettings
from bpfleet_aggregator.stores.clickhouse.store import open_store
from bpfleet_aggregator.stores.duckdb import DuckdbSettings, DuckdbStore

__all__ = ["run"]

_ROUNDS = 15
_COLUMNS = {
    "time": ("DateTime", "UINTEGER", pa.uint32()),
    "agent": ("String", "VARCHAR", pa.string()),
    "host": ("String", "VARCHAR", pa.string()),
    "t1": ("UInt64", "UBIGINT", pa.uint64()),
    "pid": ("UInt32", "UINTEGER", pa.uint32()),
    "comm": ("String", "VARCHAR", pa.string()),
    "cpu_ns": ("UInt64", "UBIGINT", pa.uint64()),
    "switches": ("UInt64", "UBIGINT", pa.uint64()),
}
"""What the peers' tables have of a row: types of ClickHouse, DuckDB, Arrow."""


def _rows(frames: Sequence[Received]) -> pa.Table:
    """The rows of frames as the peers get them."""
    made: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
    for one in frames:
        shot = one.record
        assert isinstance(shot, Snapshot)
        moment = (shot.t1 + shot.wall_offset) // 10**9
        for name, value in (
            ("time", moment),
            ("agent", one.agent),
            ("host", shot.origin.host),
            ("t1", shot.t1),
        ):
            made[name].append(np.repeat(value, shot.rows))
        for name, column in zip(("pid", "comm", "cpu_ns", "switches"), shot.columns, strict=True):
            made[name].append(column.astype("U16") if name == "comm" else column)
    arrays = {name: np.concatenate(parts) for name, parts in made.items()}
    return pa.table({name: pa.array(arrays[name], kind) for name, (_, _, kind) in _COLUMNS.items()})


class _Timed:
    """Contenders over one fleet: what each is given is made before the clock starts."""

    def __init__(self, batch: int) -> None:
        self.batch = batch
        self._fleets: dict[str, Fleet] = {}

    def contender(
        self,
        name: str,
        insert: Callable[[Any], None],
        prepared: Callable[[Sequence[Received]], Any] = lambda frames: frames,
    ) -> Contender:
        fleet = self._fleets.setdefault(name, Fleet())

        def timed(repeats: int) -> int:
            given = [prepared(fleet.frames(self.batch)) for _ in range(repeats)]
            began = time.perf_counter_ns()
            for one in given:
                insert(one)
            return time.perf_counter_ns() - began

        return Contender(name, timed, budget_ns=30_000_000_000)


def _commit(store: Store) -> Callable[[Any], None]:
    return lambda frames: store.commit(frames)


def _duckdb_peers(folder: Path, timed: _Timed) -> Iterator[Contender]:
    database = duckdb.connect(str(folder / "plain.duckdb"))
    columns = ", ".join(f"{name} {kind}" for name, (_, kind, _) in _COLUMNS.items())
    database.execute(f"CREATE TABLE t ({columns})")

    def arrow(table: pa.Table) -> None:
        database.register("rows", table)
        database.execute("INSERT INTO t SELECT * FROM rows")
        database.unregister("rows")

    yield timed.contender("duckdb: INSERT of an Arrow table", arrow, _rows)


def _clickhouse_peers(server: RunningServer, timed: _Timed) -> Iterator[Contender]:
    columns = ", ".join(f"{name} {kind}" for name, (kind, _, _) in _COLUMNS.items())
    server.run(
        f"CREATE TABLE t ({columns}) ENGINE = MergeTree PARTITION BY toDate(time) ORDER BY (agent, t1, pid)"
    )

    def post(data: bytes) -> None:
        # A new connection each time: the server ends one that was idle, and connecting costs next to nothing.
        with urlopen(f"{server.url}/?query=INSERT%20INTO%20t%20FORMAT%20Native", data, timeout=120) as answer:
            answer.read()

    def client(form: str) -> Callable[[Any], None]:
        words = ["clickhouse-client", "--port", str(server.tcp), "--query", f"INSERT INTO t FORMAT {form}"]

        def insert(data: bytes) -> None:
            subprocess.run(words, input=data, check=True, timeout=120)

        return insert

    def native(frames: Sequence[Received]) -> bytes:
        table = _rows(frames)
        return b"".join(
            encoded_block(
                [
                    InsertColumn(name, kind, table[name].combine_chunks())
                    for name, (kind, _, _) in _COLUMNS.items()
                ]
            )
        )

    def text(frames: Sequence[Received]) -> bytes:
        return "".join("\t".join(map(str, row.values())) + "\n" for row in _rows(frames).to_pylist()).encode()

    driver = clickhouse_driver.Client("127.0.0.1", server.tcp)
    yield timed.contender("clickhouse: Native over HTTP", post, native)
    yield timed.contender("clickhouse-client, Native", client("Native"), native)
    yield timed.contender("clickhouse-client, TabSeparated", client("TabSeparated"), text)
    yield timed.contender(
        "clickhouse-driver, rows",
        lambda rows: driver.execute("INSERT INTO t VALUES", rows),
        lambda frames: list(zip(*(column.to_pylist() for column in _rows(frames).columns), strict=True)),
    )


def run(quick: bool) -> Iterator[Table]:
    """One table for each size of batch."""
    for batch in (50,) if quick else (500, 5_000):
        yield _measured(batch, 3 if quick else _ROUNDS)


def _measured(batch: int, rounds: int) -> Table:
    with ExitStack() as ends:
        folder = Path(
            ends.enter_context(tempfile.TemporaryDirectory(prefix="bpfleet-bench-", dir="/var/tmp"))
        )
        server = ends.enter_context(running_server(folder / "server"))
        settings = DuckdbSettings(path="store", size_limit=Size(20 << 30))
        embedded = DuckdbStore(settings, StoreContext("duckdb", folder))
        ends.callback(embedded.close)
        central = open_store(ClickhouseSettings(url=server.url), StoreContext("clickhouse", folder))
        ends.callback(central.close)
        timed = _Timed(batch)
        ours = [
            timed.contender("bpfleet, store duckdb", _commit(embedded)),
            timed.contender("bpfleet, store clickhouse", _commit(central)),
        ]
        contenders = [*ours, *_duckdb_peers(folder, timed), *_clickhouse_peers(server, timed)]
        interleave(contenders, rounds)
    table = Table(
        f"storing: batches of {batch:,} frames of {ROWS} rows",
        ("", "rows/s", "slowest", "fastest", "ms a batch", "to its engine's peer", "rounds"),
        notes=[
            "median of the rounds; 1.00: duckdb's INSERT of an Arrow table, ClickHouse's of Native over HTTP",
            "bpfleet's is the whole commit: rows, a row for each frame, the marks; durable in duckdb",
        ],
    )
    peers = {"duckdb": contenders[2].median, "clickhouse": contenders[3].median}
    for one in contenders:
        engine = "duckdb" if "duckdb" in one.name else "clickhouse"
        rate, worst, best = (batch * ROWS / (ns / 1e9) for ns in (one.median, one.worst, one.best))
        ratio = peers[engine] / one.median
        table.data.append({"name": one.name, "batch": batch, "rows_per_s": rate, "ratio": ratio})
        table.rows.append(
            (
                one.name,
                si(rate),
                si(worst),
                si(best),
                f"{one.median / 1e6:.1f}",
                f"{ratio:.2f}",
                str(len(one.times)),
            )
        )
    return table

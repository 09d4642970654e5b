"""store: what the embedded store takes to keep a fleet's snapshots, and to answer while it does."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from bench.tables import Table, megabytes, si
from bpfleet.settings import Size
from bpfleet.stores import Received, StoreContext
from bpfleet.wire import Column, Origin, Schema, Snapshot
from bpfleet_aggregator.stores.duckdb import DuckdbSettings, DuckdbStore, open_reader
from bpfleet_aggregator.stores.duckdb.files import folder_size

__all__ = ["ROWS", "Fleet", "run"]

ROWS = 100
_AGENTS = 1000
_NAMES = np.array([b"kworker/u8:2", b"python3", b"sshd", b"bash", b"nginx", b"systemd", b"cron"], "S16")
_SCHEMA = Schema(
    "cputime",
    "1",
    "processes",
    "",
    (
        Column("pid", "key", "u32", None, "label"),
        Column("comm", "key", "char", 16, "label"),
        Column("cpu_ns", "value", "u64", None, "counter", "ns"),
        Column("switches", "value", "u64", None, "counter"),
    ),
)
QUESTIONS = {
    "rows by host, last minute": "SELECT host, count(*) FROM cputime_processes "
    "WHERE time > {moment} GROUP BY host",
    "cpu by command, last minute": "SELECT comm, sum(cpu_ns_per_s) FROM cputime_processes_rate "
    "WHERE time > {moment} AND since <> 'load' GROUP BY comm",
    "agents": "SELECT count(*), sum(records) FROM agents",
}


class Fleet:
    """Agents whose counters grow: frames of `ROWS` rows."""

    def __init__(self) -> None:
        random = np.random.default_rng(1)
        self._random = random
        self._pids = [
            np.sort(random.choice(32768, ROWS, replace=False)).astype("<u4") for _ in range(_AGENTS)
        ]
        self._comms = [_NAMES[pids % len(_NAMES)] for pids in self._pids]
        self._cpu = [random.integers(0, 10**12, ROWS).astype("<u8") for _ in range(_AGENTS)]
        self._origins = [
            Origin(f"{i:08x}-7d0e-4c39-9a55-0b6f3c1d2e4f", f"web-{i}", f"boot-{i}", 1) for i in range(_AGENTS)
        ]
        self._seq = 0

    def frames(self, count: int) -> list[Received]:
        """The next `count` frames, agents by turns, ten seconds between two of one agent."""
        return [self._frame() for _ in range(count)]

    def _frame(self) -> Received:
        turn, index = divmod(self._seq, _AGENTS)
        self._seq += 1
        self._cpu[index] = self._cpu[index] + self._random.integers(0, 10**9, ROWS).astype("<u8")
        t1 = (turn + 1) * 10 * 10**9 + index * 10**7
        offset = 1_790_000_000 * 10**9
        record = Snapshot(
            schema=_SCHEMA,
            origin=self._origins[index],
            generation=1,
            seq=turn + 1,
            t0=t1,
            t1=t1,
            wall_offset=offset,
            rows=ROWS,
            columns=[self._pids[index], self._comms[index], self._cpu[index], self._cpu[index] // 20_000],
            method="walk",
            complete=True,
            entries=ROWS,
            max_entries=10240,
            losses={"failed_insert": 0},
        )
        origin = self._origins[index]
        return Received(origin.agent, "spool", turn + 1, record, 4000, t1 + offset)

    @property
    def moment(self) -> str:
        """A minute before the latest read, in SQL."""
        seconds = 1_790_000_000 + (self._seq // _AGENTS) * 10 - 60
        return f"to_timestamp({seconds})"


def run(quick: bool) -> Iterator[Table]:
    """Two tables: storing, by size of the batch; questions."""
    storing = Table(
        f"store: frames of {ROWS} rows (pid, comm, two counters) of {_AGENTS:,} agents",
        (
            "frames a batch",
            "frames",
            "frames/s",
            "rows/s",
            "ms a batch",
            "CPU s a 5,000 frames",
            "bytes a row",
        ),
        texts=0,
    )
    answers = Table("store: questions, nothing else going on; ms (median)", ("", "ms", "rows stored"))
    for batch, batches in ((500, 4),) if quick else ((100, 300), (1_000, 120), (5_000, 60)):
        folder = Path(tempfile.mkdtemp(prefix="bpfleet-bench-", dir="/var/tmp"))
        try:
            fleet = _store(folder, batch, batches, storing)
            last = quick or batch == 5_000
            if last:
                _ask(folder, fleet, batch * batches * ROWS, answers)
        finally:
            shutil.rmtree(folder)
    storing.notes = [
        "CPU: of the whole process, the database's threads included; a batch is one durable transaction",
    ]
    yield storing
    yield answers


def _settings() -> DuckdbSettings:
    return DuckdbSettings(path="store", size_limit=Size(20 << 30))


def _store(folder: Path, batch: int, batches: int, table: Table) -> Fleet:
    fleet = Fleet()
    store = DuckdbStore(_settings(), StoreContext("duckdb", folder))
    times, cpu = [], 0.0
    try:
        for _ in range(batches):
            frames = fleet.frames(batch)
            before, began = time.process_time(), time.perf_counter()
            store.commit(frames)
            times.append(time.perf_counter() - began)
            cpu += time.process_time() - before
    finally:
        store.close()
    frames_in_all = batch * batches
    size = folder_size(folder / "store")
    rate = batch / median(times)
    result: dict[str, Any] = {
        "batch": batch,
        "frames": frames_in_all,
        "frames_per_s": rate,
        "batch_ms": median(times) * 1e3,
        "cpu_s_per_5000": cpu / frames_in_all * 5000,
        "bytes_per_row": size / frames_in_all / ROWS,
    }
    table.data.append(result)
    table.rows.append(
        (
            f"{batch:,}",
            f"{frames_in_all:,}",
            si(rate),
            si(rate * ROWS),
            f"{result['batch_ms']:.1f}",
            f"{result['cpu_s_per_5000']:.3f}",
            f"{result['bytes_per_row']:.2f} ({megabytes(size)})",
        )
    )
    return fleet


def _ask(folder: Path, fleet: Fleet, rows: int, table: Table) -> None:
    reader = open_reader(_settings(), StoreContext("duckdb", folder))
    try:
        for name, sql in QUESTIONS.items():
            times = []
            for _ in range(5):
                began = time.perf_counter()
                reader.query(sql.format(moment=fleet.moment)).read_all()
                times.append(time.perf_counter() - began)
            table.data.append({"name": name, "ms": median(times) * 1e3, "rows": rows})
            table.rows.append((name, f"{median(times) * 1e3:.0f}", f"{rows:,}"))
    finally:
        reader.close()

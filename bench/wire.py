"""wire: one snapshot to bytes and back, as columns (the agent's records) and as msgpack of a dict per row."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import numpy as np

from bench.rounds import Contender, interleave
from bench.tables import Table, si
from bpfleet.layout import declared
from bpfleet.reading.columns import views
from bpfleet.schema import counter, label
from bpfleet.wire import Column, Decoder, Origin, Schema, Snapshot, encode_schema, encode_snapshot

__all__ = ["Sample", "run"]

_KEY = declared([label("pid", "u32")])
_VALUE = declared([counter("cpu_ns"), label("comm", "char[16]")])
_COLUMNS = (*(Column.of(leaf, "key") for leaf in _KEY.columns()),
            *(Column.of(leaf, "value") for leaf in _VALUE.columns()))  # fmt: skip


def run(quick: bool) -> Iterator[Table]:
    """One table over sizes."""
    table = Table(
        "wire: pid u32, cpu_ns u64, comm char[16]; rows/s (median of rounds)",
        ("", "rows", "encode", "decode", "encode and decode, dicts = 1", "bytes a row"),
    )
    for rows in (1_000,) if quick else (100, 10_000, 100_000):
        _compare(rows, table, rounds=5 if quick else 15)
    table.notes = [
        "decoded columns are arrays over the frame; to dicts: what `bpfleet decode` makes of them",
        "dicts: made of the same arrays by tolist() and zip, packed by msgpack; unpacking gives the dicts",
    ]
    yield table


class Sample:
    """A snapshot of the cputime collector's main map, as a read gives it: views over rows of bytes."""

    def __init__(self, rows: int) -> None:
        stride = 8 + _VALUE.size
        raw = np.zeros((rows, stride), np.uint8)
        numbers = np.arange(rows, dtype=np.uint64)
        raw[:, :4] = numbers.astype("<u4").view(np.uint8).reshape(rows, 4)
        raw[:, 8:16] = (numbers * np.uint64(123_456_789)).view(np.uint8).reshape(rows, 8)
        raw[:, 16:32] = (
            np.array([b"kworker/u8:2", b"python3", b"sshd"] * (rows // 3 + 1), "S16")[:rows]
            .view(np.uint8)
            .reshape(rows, 16)
        )
        flat = raw.reshape(-1)
        columns = [*views(flat, 0, stride, rows, _KEY), *views(flat, 8, stride, rows, _VALUE)]
        self.schema = Schema("cputime", "1", "processes", "", _COLUMNS)
        self.schema_frame = encode_schema(self.schema)
        self.snapshot = Snapshot(
            schema=self.schema,
            origin=Origin("3f0e", "bench", "boot", 1),
            generation=1,
            seq=1,
            t0=1,
            t1=2,
            wall_offset=0,
            rows=rows,
            columns=columns,
            method="walk",
            complete=True,
            entries=rows,
            max_entries=rows,
        )
        self.frames = self.encode()
        self._decoder = Decoder()
        self._decoder.decode(self.schema_frame.data)
        self.packed: bytes = self.pack()

    def encode(self) -> list[Any]:
        """Frames as the agent makes them."""
        return [frame.data for frame in encode_snapshot(self.snapshot, self.schema_frame)]

    def decode(self) -> list[Snapshot]:
        """The frames as snapshots: columns."""
        found = (self._decoder.decode(data) for data in self.frames)
        return [one for one in found if isinstance(one, Snapshot)]

    def to_rows(self) -> list[dict[str, Any]]:
        """The frames as dicts."""
        return [row for part in self.decode() for row in part.to_rows()]

    def pack(self) -> bytes:
        """The same rows as msgpack of one dict for each."""
        packed: bytes = msgpack.packb(self.snapshot.to_rows())
        return packed

    def unpack(self) -> list[dict[str, Any]]:
        """The dicts again."""
        rows: list[dict[str, Any]] = msgpack.unpackb(self.packed)
        return rows


def _compare(rows: int, table: Table, *, rounds: int) -> None:
    sample = Sample(rows)
    assert sample.to_rows() == sample.unpack()
    doing: dict[str, Callable[[], object]] = {
        "encode": sample.encode,
        "decode": sample.decode,
        "to_rows": sample.to_rows,
        "pack": sample.pack,
        "unpack": sample.unpack,
    }
    contenders = {name: Contender(name, _timed(do)) for name, do in doing.items()}
    interleave(list(contenders.values()), rounds)
    ns = {name: one.median for name, one in contenders.items()}
    dicts = ns["pack"] + ns["unpack"]
    sizes = (sum(map(len, sample.frames)), len(sample.packed))
    for name, encode, decode, size in (
        ("columns", "encode", "decode", sizes[0]),
        ("columns, to dicts", "encode", "to_rows", sizes[0]),
        ("a dict per row", "pack", "unpack", sizes[1]),
    ):
        both = ns[encode] + ns[decode]
        table.rows.append(
            [
                name,
                f"{rows:,}",
                si(rows / ns[encode] * 1e9),
                si(rows / ns[decode] * 1e9),
                f"{dicts / both:.1f}",
                f"{size / rows:.1f}",
            ]
        )
        table.data.append(
            {
                "name": name,
                "rows": rows,
                "encode_ns": ns[encode],
                "decode_ns": ns[decode],
                "bytes": size,
                "ratio": dicts / both,
            }
        )


def _timed(do: Callable[[], object]) -> Callable[[int], int]:
    def run(repeats: int) -> int:
        began = time.perf_counter_ns()
        for _ in range(repeats):
            do()
        return time.perf_counter_ns() - began

    return run

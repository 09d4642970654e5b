"""The golden files of wire format 1: `python tests/make_golden.py` writes them anew.

    golden/NAME.msgpack   one frame              golden/NAME.json   what it decodes to
    golden/refused/NAME.msgpack   a frame that every decoder must refuse; the name says why
    golden/stream.bpfleet         a file of records; golden/stream.json: what is in it, by offset

They change only with the format: a difference in one that is there already needs a new format version, unless
the file was wrong. `test_wire_golden.py` compares.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

from bpfleet.wire import (
    Column,
    Gap,
    Origin,
    Record,
    Schema,
    Snapshot,
    Status,
    compress,
    encode_gap,
    encode_schema,
    encode_snapshot,
    encode_status,
)

FOLDER = Path(__file__).parent / "golden"

ORIGIN = Origin(
    "6f1c2a52-7d0e-4c39-9a55-0b6f3c1d2e4f", "web-7", "0e2a3c5b-8f41-4d7a-b1c9-5d6e7f8091a2", 41_000_000_000
)
WALL_OFFSET = 1_735_689_600_000_000_000

SMALL = Schema(
    "execve",
    "1.0",
    "calls",
    "",
    (
        Column("pid", "key", "u32", None, "label"),
        Column("comm", "key", "char", 4, "label"),
        Column("calls", "value", "u64", None, "counter"),
    ),
)
SMALL_ROWS = [(7, b"sh\0\0", 3), (300, b"cron", 1 << 40)]

EVENTS = Schema(
    "opens",
    "3",
    "failed",
    "a perf event array",
    (
        Column("event_number", "key", "u64", None, "event"),
        Column("cpu", "key", "u32", None, "label"),
        Column("pid", "value", "u32", None, "label"),
        Column("took", "value", "s64", None, "gauge", "ns"),
        Column("path", "value", "char", 8, "label"),
    ),
)
EVENT_COLUMNS = [
    np.array([41, 42, 45], "<u8"),
    np.array([0, 0, 3], "<u4"),
    np.array([7, 7, 300], "<u4"),
    np.array([-1, 1 << 40, 0], "<i8"),
    np.array([b"/etc", b"/etc/pas", b""], "S8"),
]

_TYPES = ("u8", "u16", "u32", "u64", "s8", "s16", "s32", "s64", "f32", "f64", "bool", "char", "bytes")
EVERY = Schema(
    "every-type",
    "2.0.1",
    ".bss",
    "one scalar and one array of each type",
    tuple(Column(f"one.{t}", "key", t, None, "label", "", f"a {t}") for t in _TYPES)
    + tuple(
        Column(f"some.{t}", "value", t, 3, "histogram" if t == "u64" else "gauge", "ns", "drei Stück")
        for t in _TYPES
    ),
)


def every_columns() -> list[np.ndarray[Any, np.dtype[Any]]]:
    """Three rows for EVERY: zeros, the largest values, and bytes that are easily spoilt."""
    columns = []
    for column in EVERY.columns:
        base = column.dtype.base
        if base.kind == "S":
            texts = [b"", b"\xff\xc3\xa9", b"a\0b"] if column.count else [b"", b"\xff", b" "]
            array = np.array([text.ljust(column.count or 1, b"\0") for text in texts], column.dtype)
        elif base.kind == "V":
            blobs = [bytes(3), b"\xff\xff\xff", b"\x01\0\0"] if column.count else [b"\0", b"\xff", b"\x20"]
            array = np.frombuffer(b"".join(blobs), column.dtype)
        elif base.kind == "f":
            array = np.empty((3, *column.dtype.shape), base)
            array[0], array[1], array[2] = 0, np.finfo(base).max, -1.5
        elif column.type == "bool":
            array = np.empty((3, *column.dtype.shape), base)
            array[0], array[1], array[2] = 0, 1, 2
        else:
            info = np.iinfo(base)
            array = np.empty((3, *column.dtype.shape), base)
            array[0], array[1], array[2] = 0, info.max, info.min or 1
        columns.append(array)
    return columns


def small_columns(rows: list[tuple[int, bytes, int]]) -> list[np.ndarray[Any, np.dtype[Any]]]:
    """The columns of SMALL that hold `rows`."""
    pids, comms, calls = zip(*rows, strict=True) if rows else ((), (), ())
    return [np.array(pids, "<u4"), np.array(comms, "S4"), np.array(calls, "<u8")]


def snapshot_of(
    schema: Schema, columns: list[np.ndarray[Any, np.dtype[Any]]], seq: int, **fields: Any
) -> Snapshot:
    """A snapshot with the usual other fields."""
    usual: dict[str, Any] = {
        "generation": 40_000_000_000,
        "t0": 52_000_000_000,
        "t1": 52_000_150_000,
        "wall_offset": WALL_OFFSET,
        "rows": len(columns[0]),
        "method": "walk",
        "complete": True,
        "entries": len(columns[0]),
        "max_entries": 10_240,
        "losses": {"failed_insert": 0},
    }
    return Snapshot(schema=schema, origin=ORIGIN, seq=seq, columns=columns, **usual | fields)


GAP = Gap(
    origin=ORIGIN, seq=21, first=14, last=20, count=7, reason="queue_full", sink="zmq", t1=53_000_000_000
)

STATUS = Status(
    origin=ORIGIN,
    seq=22,
    t1=54_000_000_000,
    wall_offset=-1,
    body={
        "software": {
            "version": "0.1.0",
            "python": "3.11.2",
            "kernel": "6.18.5",
            "machine": "x86_64",
            "pid": 4711,
            "uptime_s": 13.25,
            "cpu_s": 0.5,
            "pss_bytes": 25_165_824,
        },
        "collectors": [
            {
                "name": "execve",
                "version": "1.0",
                "state": "running",
                "error": None,
                "generation": 40_000_000_000,
                "interval_s": 1,
                "programs": [{"name": "on_exec", "attached": "tp_btf/sched_process_exec"}],
                "maps": [
                    {
                        "name": "calls",
                        "type": "hash",
                        "method": "walk",
                        "why_not": {"mmap": "the map is not an mmapable array"},
                        "rows": 2,
                        "entries": 2,
                        "max_entries": 10_240,
                        "reads": 12,
                        "read_ns": 1_800_000,
                        "bytes": 4096,
                        "memory_bytes": 65_536,
                        "losses": {"failed_insert": 0},
                    }
                ],
            },
            {
                "name": "dnslat",
                "state": "load_error",
                "error": {
                    "error": "AttachError",
                    "what": "libc has no symbol 'getaddrinf'",
                    "where": "collector 'dnslat'",
                    "remedy": "is it 'getaddrinfo'?",
                    "log": "",
                },
            },
        ],
        "sinks": [
            {
                "name": "zmq",
                "type": "zmq",
                "state": "quarantined",
                "error": {"what": "no answer from tcp://127.0.0.1:5555"},
                "queued": 3,
                "queued_bytes": 2948,
                "written": 13,
                "dropped": 7,
            }
        ],
        "labels": {"site": "Zürich", "rack": "12"},
        "a_field_of_a_later_agent": [1, {"deep": True}],
    },
)


@dataclass(frozen=True)
class Golden:
    """One frame, and the record that it is."""

    name: str
    frame: bytes
    plain: dict[str, Any]


def goldens() -> Iterator[Golden]:
    """Every golden frame, schemas before the snapshots that need them."""
    small, every = encode_schema(SMALL), encode_schema(EVERY)
    yield Golden("schema_small", bytes(small.data), plain(SMALL))
    yield Golden("schema_every_type", bytes(every.data), plain(EVERY))
    one = snapshot_of(SMALL, small_columns(SMALL_ROWS), 9)
    (frame,) = encode_snapshot(one, small)
    yield Golden("snapshot_small", bytes(frame.data), plain(one))
    (frame,) = encode_snapshot(snapshot_of(SMALL, small_columns([]), 10, method="batch"), small)
    yield Golden(
        "snapshot_no_rows",
        bytes(frame.data),
        plain(snapshot_of(SMALL, small_columns([]), 10, method="batch")),
    )
    full = snapshot_of(
        EVERY,
        every_columns(),
        11,
        complete=False,
        entries=5,
        losses={"truncated": 2, "failed_insert": 1 << 63},
    )
    (frame,) = encode_snapshot(full, every)
    yield Golden("snapshot_every_type", bytes(frame.data), plain(full))
    packed = compress(frame.data)
    yield Golden("snapshot_zstd", packed, plain(full))
    many = [(i, f"p{i}".encode(), i * i) for i in range(17)]
    large = snapshot_of(SMALL, small_columns(many), 12)
    for part in encode_snapshot(large, small, most=551):
        number = part.seq - 12
        rows = many[number * 7 : number * 7 + 7]
        piece = snapshot_of(SMALL, small_columns(rows), part.seq, entries=17, part=number, parts=3)
        yield Golden(f"snapshot_part_{number}", bytes(part.data), plain(piece))
    events = encode_schema(EVENTS)
    yield Golden("schema_events", bytes(events.data), plain(EVENTS))
    losses = {"failed_insert": 0, "lost": 1 << 40, "no_room": 2}
    drained = snapshot_of(EVENTS, EVENT_COLUMNS, 15, method="drain", losses=losses)
    (frame,) = encode_snapshot(drained, events)
    yield Golden("snapshot_events", bytes(frame.data), plain(drained))
    yield Golden("gap", bytes(encode_gap(GAP).data), plain(GAP))
    yield Golden("status", bytes(encode_status(STATUS).data), plain(STATUS))


def plain(record: Record) -> dict[str, Any]:
    """A record as JSON: its fields, a snapshot's columns as `rows` of values."""
    if isinstance(record, Schema):
        return {
            "kind": "schema",
            "id": record.id,
            "collector": record.collector,
            "version": record.version,
            "map": record.map,
            "help": record.help,
            "columns": [column.to_plain() for column in record.columns],
        }
    origin = record.origin
    head = {
        "agent": origin.agent,
        "host": origin.host,
        "boot": origin.boot,
        "run": origin.run,
        "seq": record.seq,
    }
    if isinstance(record, Gap):
        named = ("first", "last", "count", "reason", "sink", "t1")
        return {"kind": "gap", **head, **{name: getattr(record, name) for name in named}}
    head |= {"t1": record.t1, "wall_offset": record.wall_offset}
    if isinstance(record, Status):
        return {"kind": "status", **head, **record.body}
    named = ("generation", "t0", "method", "complete", "entries", "max_entries", "part", "parts")
    return {
        "kind": "snapshot",
        "schema": record.schema.id,
        "collector": record.schema.collector,
        "version": record.schema.version,
        "map": record.schema.map,
        **head,
        **{name: getattr(record, name) for name in named},
        "losses": dict(record.losses),
        "rows": record.to_rows(),
    }


def refused() -> Iterator[tuple[str, bytes]]:
    """Frames that no decoder may take, each wrong in one way."""
    found = {golden.name: golden.frame for golden in goldens()}
    snapshot, schema = found["snapshot_small"], found["schema_small"]
    gap, status = found["gap"], found["status"]

    def changed(frame: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
        record = msgpack.unpackb(frame)
        change(record)
        packed: bytes = msgpack.packb(record)
        return packed

    def put(frame: bytes, **fields: Any) -> bytes:
        return changed(frame, lambda record: record.update(fields))

    def extended(value: bytes) -> bytes:
        """The gap with one more field, `x`, whose value is `value`."""
        return bytes([gap[0] + 1]) + gap[1:] + b"\xa1x" + value

    def first_column(**fields: Any) -> bytes:
        return changed(schema, lambda record: record["columns"][0].update(fields))

    yield "empty", b""
    yield "no_map", msgpack.packb([1, 2])
    yield "cut_off", snapshot[:-1]
    yield "byte_after_the_record", snapshot + b"\0"
    yield "version_2", put(gap, v=2)
    yield "no_version", changed(gap, lambda record: record.pop("v"))
    yield "unknown_kind", put(gap, kind="trace")
    yield "key_that_is_no_text", bytes([gap[0] + 1]) + gap[1:] + b"\x01\x01"
    yield "key_that_is_bin", bytes([gap[0] + 1]) + gap[1:] + b"\xc4\x01x\x01"
    yield "key_twice", bytes([gap[0] + 1]) + gap[1:] + b"\xa1v\x01"
    yield "key_twice_in_an_unknown_field", extended(b"\x82\xa1a\x01\xa1a\x02")
    yield "extension", extended(b"\xd4\x01\x00")
    yield "timestamp_extension", extended(b"\xd6\xff\0\0\0\0")
    yield "reserved_byte", extended(b"\xc1")
    yield "text_that_is_not_utf8", extended(b"\xa1\xff")
    yield "text_with_a_surrogate", extended(b"\xa3\xed\xa0\x80")
    yield "text_of_16385_bytes", extended(msgpack.packb("x" * 16385))
    yield "not_a_number", extended(b"\xcb\x7f\xf8\0\0\0\0\0\0")
    yield "infinity", extended(b"\xca\x7f\x80\0\0")
    yield "array_of_1025", extended(msgpack.packb([0] * 1025))
    yield "array_of_4294967295", extended(b"\xdd\xff\xff\xff\xff")
    yield "17_inside_one_another", extended(b"\x91" * 15 + b"\x90")
    yield "more_than_65536_values", extended(msgpack.packb([[0] * 1000] * 66))
    yield "float_for_an_integer", put(gap, t1=1.0)
    yield "flag_for_an_integer", put(gap, t1=True)
    yield "negative_seq", put(gap, seq=-1)
    yield "agent_with_a_blank", put(gap, agent="a b")
    yield "agent_that_is_empty", put(gap, agent="")
    yield "gap_last_before_first", put(gap, last=13)
    yield "gap_count_beyond_its_range", put(gap, count=8)
    yield "schema_with_another_id", put(schema, id="0" * 32)
    yield "schema_without_columns", put(schema, columns=[])
    yield "schema_with_a_name_twice", changed(schema, lambda r: r["columns"][1].update(name="pid"))
    yield "column_of_an_unknown_type", first_column(type="u128")
    yield "column_of_count_0", first_column(count=0)
    yield "column_of_more_than_1_mib", first_column(type="u8", count=(1 << 20) + 1)
    yield "column_of_another_part", first_column(part="both")
    yield "snapshot_of_an_unknown_schema", put(snapshot, schema="0" * 32)
    yield "snapshot_of_another_map", put(snapshot, map="other")
    yield "snapshot_with_a_column_less", changed(snapshot, lambda r: r["columns"].pop())
    yield (
        "snapshot_with_a_byte_less",
        changed(snapshot, lambda r: r["columns"].append(r["columns"].pop()[:-1])),
    )
    yield (
        "snapshot_with_a_byte_more",
        changed(snapshot, lambda r: r["columns"].append(r["columns"].pop() + b"\0")),
    )
    yield (
        "snapshot_with_text_for_a_column",
        changed(snapshot, lambda r: r["columns"].__setitem__(1, r["columns"][1].decode())),
    )
    yield "snapshot_of_4294967295_rows", put(snapshot, rows=0xFFFFFFFF)
    yield "snapshot_part_1_of_1", put(snapshot, part=1)
    yield "snapshot_seq_below_its_part", put(snapshot, seq=1, part=2, parts=3)
    yield "snapshot_t1_before_t0", put(snapshot, t1=1)
    yield "snapshot_complete_is_1", put(snapshot, complete=1)
    yield "snapshot_loss_is_text", put(snapshot, losses={"failed_insert": "0"})
    yield "status_without_sinks", changed(status, lambda record: record.pop("sinks"))
    yield "status_label_is_a_number", put(status, labels={"rack": 12})
    yield "status_collector_without_state", put(status, collectors=[{"name": "execve"}])
    yield "status_error_is_text", put(status, sinks=[{"name": "zmq", "state": "running", "error": "broken"}])
    yield (
        "status_rows_is_a_float",
        put(status, collectors=[{"name": "e", "state": "running", "maps": [{"name": "m", "rows": 1.5}]}]),
    )
    yield "status_with_a_bin", put(status, later=b"\0")
    yield "zstd_without_its_size", compress_without_size(snapshot)
    yield "zstd_with_a_byte_after", compress(snapshot) + b"\0"
    yield "zstd_of_more_than_4_mib", compress(bytes((4 << 20) + 1))
    yield "zstd_inside_zstd", compress(compress(snapshot))
    yield "zstd_cut_off", compress(snapshot)[:-1]


def compress_without_size(data: bytes) -> bytes:
    """A zstd frame that does not say its content's size."""
    import zstandard

    made: bytes = zstandard.ZstdCompressor(write_content_size=False).compress(data)
    return made


def stream() -> tuple[bytes, list[dict[str, Any]]]:
    """A file of records, and what is in it: offset, frame's golden name."""
    found = {golden.name: golden.frame for golden in goldens()}
    data, listed = b"", []
    for name in ("schema_small", "snapshot_small", "schema_every_type", "snapshot_zstd", "gap", "status"):
        listed.append({"offset": len(data), "golden": name})
        frame = found[name]
        data += msgpack.packb(frame) if name.endswith("zstd") else frame
    return data, listed


def as_json(value: Any) -> str:
    """`value` as the golden JSON files have it."""
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    """Write every golden file."""
    (FOLDER / "refused").mkdir(parents=True, exist_ok=True)
    for golden in goldens():
        (FOLDER / f"{golden.name}.msgpack").write_bytes(golden.frame)
        (FOLDER / f"{golden.name}.json").write_text(as_json(golden.plain))
    for name, frame in refused():
        (FOLDER / "refused" / f"{name}.msgpack").write_bytes(frame)
    data, listed = stream()
    (FOLDER / "stream.bpfleet").write_bytes(data)
    (FOLDER / "stream.json").write_text(as_json(listed))


if __name__ == "__main__":
    main()

"""A second decoder of wire format 1, written from docs/wire.md alone, with nothing but the standard library.

It shows that the document suffices, and keeps the agent's own decoder honest: the tests want both to say the
same of every frame. It is written for being read beside the document, not for speed.

    reader = Reference()
    reader.decode(frame)    → the record as plain data, a snapshot's columns as "rows"; raises Refused
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Callable, Iterator
from typing import Any

MOST_BYTES = 4_194_304
MOST_TEXT = 16_384
MOST_ITEMS = 1_024
MOST_VALUES = 65_536
MOST_DEPTH = 16
MOST_COLUMNS = 512
MOST_ROW_BYTES = 1_048_576
MOST_PARTS = 1_048_576
U64 = (0, 2**64 - 1)
S64 = (-(2**63), 2**63 - 1)

TYPES = {
    "u8": "B", "u16": "H", "u32": "I", "u64": "Q", "s8": "b", "s16": "h", "s32": "i", "s64": "q",
    "f32": "f", "f64": "d", "bool": "B", "char": "s", "bytes": "s",
}  # fmt: skip


class Refused(Exception):
    """Raised for a frame that is not wire format 1."""


def need(condition: bool, what: str) -> None:
    """Refuse unless `condition`."""
    if not condition:
        raise Refused(what)


# ---- msgpack


class Unpacker:
    """One msgpack value from bytes; `at` is where it ends."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at, self.values = data, 0, 0

    def take(self, size: int) -> bytes:
        need(self.at + size <= len(self.data), "the frame ends early")
        self.at += size
        return self.data[self.at - size : self.at]

    def fixed(self, form: str) -> Any:
        return struct.unpack(">" + form, self.take(struct.calcsize(form)))[0]

    def value(self, depth: int = 1) -> Any:
        self.values += 1
        need(self.values <= MOST_VALUES, "too many values")
        byte = self.fixed("B")
        match byte:
            case _ if byte <= 0x7F:
                return byte
            case _ if byte <= 0x8F:
                return self.map(byte - 0x80, depth)
            case _ if byte <= 0x9F:
                return self.array(byte - 0x90, depth)
            case _ if byte <= 0xBF:
                return self.text(byte - 0xA0)
            case _ if byte >= 0xE0:
                return byte - 256
            case 0xC0:
                return None
            case 0xC2 | 0xC3:
                return byte == 0xC3
            case 0xC4 | 0xC5 | 0xC6:
                return self.take(self.fixed("BHI"[byte - 0xC4]))
            case 0xCA | 0xCB:
                number = self.fixed("fd"[byte - 0xCA])
                need(math.isfinite(number), "a float that is not finite")
                return number
            case _ if 0xCC <= byte <= 0xD3:
                return self.fixed("BHIQbhiq"[byte - 0xCC])
            case 0xD9 | 0xDA | 0xDB:
                return self.text(self.fixed("BHI"[byte - 0xD9]))
            case 0xDC | 0xDD:
                return self.array(self.fixed("HI"[byte - 0xDC]), depth)
            case 0xDE | 0xDF:
                return self.map(self.fixed("HI"[byte - 0xDE]), depth)
        raise Refused(f"type byte {byte:#x}")

    def text(self, size: int) -> str:
        need(size <= MOST_TEXT, "a text is too long")
        try:
            return self.take(size).decode("utf-8")
        except UnicodeDecodeError:
            raise Refused("a text is not UTF-8") from None

    def array(self, items: int, depth: int) -> list[Any]:
        need(items <= MOST_ITEMS and depth <= MOST_DEPTH, "an array is too large or too deep")
        return [self.value(depth + 1) for _ in range(items)]

    def map(self, items: int, depth: int) -> dict[str, Any]:
        need(items <= MOST_ITEMS and depth <= MOST_DEPTH, "a map is too large or too deep")
        made: dict[str, Any] = {}
        for _ in range(items):
            key = self.value(depth + 1)
            need(isinstance(key, str) and key not in made, "a key is no text, or comes twice")
            made[key] = self.value(depth + 1)
        return made


def shortest(value: Any) -> bytes:
    """The shortest msgpack of nil, non-negative integers, text and arrays: what a schema id hashes."""
    if value is None:
        return b"\xc0"
    if isinstance(value, int):
        if value < 0x80:
            return bytes([value])
        for first, form, end in ((0xCC, ">BB", 1 << 8), (0xCD, ">BH", 1 << 16), (0xCE, ">BI", 1 << 32)):
            if value < end:
                return struct.pack(form, first, value)
        return struct.pack(">BQ", 0xCF, value)
    if isinstance(value, str):
        raw = value.encode()
        if len(raw) < 32:
            return bytes([0xA0 + len(raw)]) + raw
        return (
            struct.pack(">BB", 0xD9, len(raw)) if len(raw) < 256 else struct.pack(">BH", 0xDA, len(raw))
        ) + raw
    head = bytes([0x90 + len(value)]) if len(value) < 16 else struct.pack(">BH", 0xDC, len(value))
    return head + b"".join(map(shortest, value))


# ---- types of fields: each takes a value, and refuses it or returns it

Check = Callable[[Any], Any]


def integer(low: int, high: int) -> Check:
    def check(value: Any) -> Any:
        need(type(value) is int and low <= value <= high, f"not an integer from {low} to {high}")
        return value

    return check


def text(most: int = MOST_TEXT) -> Check:
    def check(value: Any) -> Any:
        need(isinstance(value, str) and len(value.encode()) <= most, f"not a text of at most {most} bytes")
        return value

    return check


def name(most: int = 255) -> Check:
    def check(value: Any) -> Any:
        text(most)(value)
        need(value != "" and all(ord(c) > 0x20 and ord(c) != 0x7F for c in value), "not a name")
        return value

    return check


def flag(value: Any) -> Any:
    need(isinstance(value, bool), "not a flag")
    return value


def number(value: Any) -> Any:
    need(type(value) in (int, float), "not a number")
    return value


def map_of(member: Check) -> Check:
    def check(value: Any) -> Any:
        need(isinstance(value, dict), "not a map")
        return {key: member(item) for key, item in value.items()}

    return check


def array_of(element: Check) -> Check:
    def check(value: Any) -> Any:
        need(isinstance(value, list), "not an array")
        return [element(item) for item in value]

    return check


def record_of(always: dict[str, Check], sometimes: dict[str, Check]) -> Check:
    """A map with all members of `always`; those of `sometimes` may be nil or absent; others are let be."""

    def check(value: Any) -> Any:
        need(isinstance(value, dict), "not a map")
        for key, member in always.items():
            need(key in value, f"{key} is missing")
            member(value[key])
        for key, member in sometimes.items():
            if value.get(key) is not None:
                member(value[key])
        return value

    return check


u64, s64 = integer(*U64), integer(*S64)

ORIGIN = {"agent": name(64), "host": text(255), "boot": text(64), "run": u64}

COLUMN = record_of(
    {"name": name(), "part": text(), "type": text(), "meaning": text(64), "unit": text(64), "help": text()},
    {"count": integer(1, MOST_ROW_BYTES)},
)

FIELDS: dict[str, dict[str, Check]] = {
    "schema": {
        "id": text(),
        "collector": name(),
        "version": text(255),
        "map": name(),
        "help": text(),
        "columns": array_of(COLUMN),
    },
    "snapshot": {
        **ORIGIN,
        "schema": text(),
        "collector": text(),
        "version": text(),
        "map": text(),
        **dict.fromkeys(("generation", "seq", "t0", "t1", "entries", "max_entries", "rows"), u64),
        "wall_offset": s64,
        "method": text(64),
        "complete": flag,
        "losses": map_of(u64),
        "part": u64,
        "parts": integer(1, MOST_PARTS),
        "columns": array_of(lambda value: value),
    },
    "gap": {
        **ORIGIN,
        **dict.fromkeys(("seq", "first", "last", "count", "t1"), u64),
        "reason": text(255),
        "sink": text(255),
    },
}

ERROR = record_of({}, dict.fromkeys(("error", "what", "where", "remedy", "log"), text()))
PROGRAM = record_of({"name": name()}, {"attached": text()})
LADDER = record_of(
    {"name": name()},
    {"taken": text(), "rung": u64, "rungs": u64, "refused": array_of(text())},
)
MAP = record_of(
    {"name": name()},
    {
        **dict.fromkeys(("type", "method"), text()),
        "why_not": map_of(text()),
        **dict.fromkeys(("rows", "entries", "max_entries", "reads", "read_ns", "bytes", "memory_bytes"), u64),
        "losses": map_of(u64),
    },
)
COLLECTOR = record_of(
    {"name": name(), "state": text(64)},
    {
        "version": text(),
        "error": ERROR,
        "generation": u64,
        "interval_s": number,
        "programs": array_of(PROGRAM),
        "ladders": array_of(LADDER),
        "maps": array_of(MAP),
    },
)
SPOOL = record_of({}, {**dict.fromkeys(("records", "bytes", "dropped"), u64), "oldest_s": number})
SINK = record_of(
    {"name": name(), "state": text(64)},
    {
        "type": text(),
        "error": ERROR,
        "spool": SPOOL,
        **dict.fromkeys(("queued", "queued_bytes", "written", "dropped"), u64),
    },
)
FIELDS["status"] = {
    **ORIGIN,
    "seq": u64,
    "t1": u64,
    "wall_offset": s64,
    "software": record_of(
        {},
        {
            **dict.fromkeys(("version", "python", "kernel", "machine"), text()),
            **dict.fromkeys(("pid", "pss_bytes"), u64),
            **dict.fromkeys(("uptime_s", "cpu_s"), number),
        },
    ),
    "collectors": array_of(COLLECTOR),
    "sinks": array_of(SINK),
    "labels": map_of(text()),
}


# ---- records


class Reference:
    """Decodes frames; `inflate` decompresses a zstd frame (there is none in the standard library)."""

    def __init__(self, inflate: Callable[[bytes], bytes] | None = None) -> None:
        self.inflate = inflate
        self.schemas: dict[str, dict[str, Any]] = {}

    def decode(self, frame: bytes) -> dict[str, Any]:
        """The record; raises Refused."""
        need(len(frame) <= MOST_BYTES, "the frame is too large")
        if frame[:4] == b"\x28\xb5\x2f\xfd":
            need(self.inflate is not None, "no zstd here")
            assert self.inflate is not None
            need(0 < zstd_content_size(frame) <= MOST_BYTES, "the content's size is missing or too large")
            frame = self.inflate(frame)
        unpacker = Unpacker(frame)
        record = unpacker.value()
        need(isinstance(record, dict), "no map")
        need(unpacker.at == len(frame), "the frame goes on after the record")
        need(type(record.get("v")) is int and record["v"] == 1, "another version")
        kind = record.get("kind")
        need(isinstance(kind, str) and kind in FIELDS, "an unknown kind")
        record_of(FIELDS[kind], {})(record)
        made: dict[str, Any] = {
            "schema": self.schema,
            "snapshot": self.snapshot,
            "gap": gap,
            "status": status,
        }[kind](record)
        return made

    def schema(self, record: dict[str, Any]) -> dict[str, Any]:
        columns = record["columns"]
        need(1 <= len(columns) <= MOST_COLUMNS, "too few or too many columns")
        need(len({column["name"] for column in columns}) == len(columns), "a name comes twice")
        for column in columns:
            need(column["part"] in ("key", "value"), "an unknown part")
            need(column["type"] in TYPES, "an unknown type")
            need(row_bytes(column) <= MOST_ROW_BYTES, "a column is too wide")
        listed = ("name", "part", "type", "count", "meaning", "unit", "help")
        columns = [{key: column.get(key) for key in listed} for column in columns]
        content = [record[key] for key in ("collector", "version", "map", "help")]
        content.append([[column[key] for key in listed] for column in columns])
        need(record["id"] == hashlib.sha256(shortest(content)).digest()[:16].hex(), "another id")
        made = picked(record, "id", "collector", "version", "map", "help") | {"columns": columns}
        self.schemas[record["id"]] = made
        return {"kind": "schema", **made}

    def snapshot(self, record: dict[str, Any]) -> dict[str, Any]:
        need(record["schema"] in self.schemas, "an unknown schema")
        schema = self.schemas[record["schema"]]
        for key in ("collector", "version", "map"):
            need(record[key] == schema[key], f"another {key} than the schema's")
        need(record["part"] < record["parts"], "a part beyond the last")
        need(record["part"] <= record["seq"], "a seq below its part")
        need(record["t0"] <= record["t1"], "it ends before it begins")
        need(len(record["columns"]) == len(schema["columns"]), "another number of columns")
        columns = {
            column["name"]: list(values(column, data, record["rows"]))
            for column, data in zip(schema["columns"], record["columns"], strict=True)
        }
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        kept = picked(record, *(key for key in FIELDS["snapshot"] if key not in ("rows", "columns")))
        return {"kind": "snapshot", **kept, "rows": rows}


def gap(record: dict[str, Any]) -> dict[str, Any]:
    need(record["first"] <= record["last"], "the last is before the first")
    need(1 <= record["count"] <= record["last"] - record["first"] + 1, "a count out of range")
    return {"kind": "gap", **picked(record, *FIELDS["gap"])}


def status(record: dict[str, Any]) -> dict[str, Any]:
    need(not any(isinstance(value, bytes) for value in everything(record)), "a bin in a status")
    return {key: value for key, value in record.items() if key != "v"}


def picked(record: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: record[key] for key in keys}


def everything(value: Any) -> Iterator[Any]:
    yield value
    if isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from everything(item)


def row_bytes(column: dict[str, Any]) -> int:
    return struct.calcsize("<" + TYPES[column["type"]]) * (column.get("count") or 1)


def values(column: dict[str, Any], data: Any, rows: int) -> Iterator[Any]:
    """The values of one column, row by row."""
    size, count, kind = row_bytes(column), column["count"], column["type"]
    need(isinstance(data, bytes) and len(data) == rows * size, "a column does not fit its rows")
    for start in range(0, len(data), size):
        raw = data[start : start + size]
        if kind == "char":
            yield raw.split(b"\0")[0].decode("utf-8", "replace")
        elif kind == "bytes":
            yield raw.hex()
        else:
            found = [
                bool(n) if kind == "bool" else n for n in struct.unpack(f"<{count or 1}{TYPES[kind]}", raw)
            ]
            yield found[0] if count is None else found


def zstd_content_size(frame: bytes) -> int:
    """What a zstd frame's header says (RFC 8878, 3.1.1.1); 0 where it says nothing."""
    need(len(frame) > 5, "the frame ends early")
    descriptor = frame[4]
    single, size_flag = descriptor >> 5 & 1, descriptor >> 6
    at = 5 + (0 if single else 1) + (0, 1, 2, 4)[descriptor & 3]
    width = (1 if single else 0, 2, 4, 8)[size_flag]
    need(len(frame) >= at + width, "the frame ends early")
    size = int.from_bytes(frame[at : at + width], "little")
    return size + 256 if width == 2 else size


def file_records(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(offset, frame) of each record of a file; raises Refused where it is damaged or cut off."""
    at = 0
    while at < len(data):
        unpacker = Unpacker(data[at:])
        value = unpacker.value()
        need(isinstance(value, (dict, bytes)), "neither a map nor a bin")
        yield at, value if isinstance(value, bytes) else data[at : at + unpacker.at]
        at += unpacker.at

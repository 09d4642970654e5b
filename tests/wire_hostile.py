"""A child with little memory decodes what an attacker might send; `test_wire_decode.py` reads what it prints.

One JSON line per case: {"case", "answer": the error or the kind of record, "peak": bytes allocated on top of
the frame}. Being killed, or any exception but WireError, is a failure of the decoder.
"""

from __future__ import annotations

import hashlib
import json
import resource
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import zstandard

from bpfleet.errors import WireError
from bpfleet.wire import Decoder

ROOM = 64 << 20
"""Address space that the child may take beyond what it has once everything is imported."""

GOLDEN = Path(__file__).parent / "golden"
MIB = 1 << 20


def extended(value: bytes) -> bytes:
    """The golden gap with one more field, whose value is `value`."""
    gap = (GOLDEN / "gap.msgpack").read_bytes()
    return bytes([gap[0] + 1]) + gap[1:] + b"\xa1x" + value


def zstd(data: bytes) -> bytes:
    made: bytes = zstandard.ZstdCompressor(level=1).compress(data)
    return made


def lying_zstd(claimed: int, held: int) -> bytes:
    """A zstd frame whose header claims another size than its content has."""
    frame = bytearray(zstd(bytes(held)))
    assert frame[4] >> 6 == 2, "a 4-byte content size"
    at = 5 + (0 if frame[4] & 0x20 else 1)
    frame[at : at + 4] = claimed.to_bytes(4, "little")
    return bytes(frame)


def golden(name: str, **fields: Any) -> bytes:
    record = msgpack.unpackb((GOLDEN / f"{name}.msgpack").read_bytes())
    packed: bytes = msgpack.packb(record | fields)
    return packed


def large_schema(number: int) -> bytes:
    """A good schema of 512 columns with help of 4 KiB each, its id right."""
    collector, text = f"c{number}", "\N{GRINNING FACE}" + "x" * 4000
    columns = [
        {
            "name": f"n{i}",
            "part": "value",
            "type": "u8",
            "count": None,
            "meaning": "g",
            "unit": "",
            "help": text + str(i),
        }
        for i in range(512)
    ]
    content = [collector, "1", "m", "", [list(column.values()) for column in columns]]
    record = {"v": 1, "kind": "schema", "id": hashlib.sha256(msgpack.packb(content)).hexdigest()[:32]}
    record |= {"collector": collector, "version": "1", "map": "m", "help": "", "columns": columns}
    packed: bytes = msgpack.packb(record)
    return packed


def cases() -> Iterator[tuple[str, bytes]]:
    """(name, frame)"""
    yield "5 MB of nested empty arrays", b"\xdd\x00\x4c\x4b\x40" + b"\x90" * 5_000_000
    yield "4 MB of empty arrays in one", extended(b"\xdd\x00\x3d\x09\x00" + b"\x90" * 4_000_000)
    yield (
        "4 MB of empty arrays by the thousand",
        extended(b"\xdc\x03\xe8" + (b"\xdc\x03\xe8" + b"\x90" * 1000) * 1000),
    )
    yield "a megabyte deep", extended(b"\x91" * MIB)
    yield "maps a megabyte deep", extended(b"\x81\xa1a" * (MIB // 3))
    yield "1024 wide at every level", extended((b"\xdc\x04\x00" + b"\x00" * 1023) * 1000)
    yield "4 MB of small texts", extended(b"\xdc\x04\x00" + (b"\xdc\x04\x00" + b"\xa2ab" * 1024) * 1024)
    yield "4 MB of small maps", extended(b"\xdc\x03\xfc" + (b"\xdc\x03\xfc" + b"\x81\xa1a\x00" * 1020) * 1020)
    yield "one key a million times", extended(b"\xdf\x00\x0f\x42\x40" + b"\xa0\x00" * 1_000_000)
    yield "an array of 2^32 - 1", extended(b"\xdd\xff\xff\xff\xff")
    yield "a map of 2^32 - 1", extended(b"\xdf\xff\xff\xff\xff")
    yield "a text of 2^32 - 1", extended(b"\xdb\xff\xff\xff\xff")
    yield "a bin of 2^32 - 1", extended(b"\xc6\xff\xff\xff\xff")
    yield "an extension of 2^32 - 1", extended(b"\xc9\xff\xff\xff\xff\x01")
    yield "a frame of 2^32 rows", golden("snapshot_small", rows=1 << 32)
    yield "2^32 rows of nothing", golden("snapshot_small", rows=1 << 32, columns=[b"", b"", b""])
    yield "2^63 parts", golden("snapshot_small", parts=1 << 63, part=1 << 62)
    yield (
        "a column of 2^40 elements",
        golden(
            "schema_small",
            columns=[
                {
                    "name": "a",
                    "part": "key",
                    "type": "u64",
                    "count": 1 << 40,
                    "meaning": "",
                    "unit": "",
                    "help": "",
                }
            ],
        ),
    )
    yield "a zstd bomb of 512 MiB", zstd(bytes(256 * MIB)) + zstd(bytes(256 * MIB))
    yield "a zstd frame that claims less than it holds", lying_zstd(70_000, 3 * MIB)
    yield "a zstd frame that claims more than it holds", lying_zstd(4 * MIB, 70_000)
    yield "zstd of 4 MiB of zeros", zstd(bytes(4 * MIB))
    yield (
        "zstd of as many values as are allowed",
        zstd(extended(b"\xdc\x00\x15" + (b"\xdc\x04\x00" + b"\x81\xa2ab\x00" * 1024) * 21)),
    )
    yield (
        "zstd of texts that take four times their size",
        zstd(extended(b"\xdc\x00\xf8" + (b"\xda\x40\x00" + b"\xf0\x9f\x98\x80" + b"x" * 16_380) * 248)),
    )
    yield "wrong types told in few words", golden("gap", seq={"a": [["x" * 16_000] * 200]})


def main() -> None:
    """Decode every case, then schemas without end."""
    made = list(cases())
    schemas = [large_schema(number) for number in range(20)]
    Decoder().decode((GOLDEN / "schema_small.msgpack").read_bytes())
    zstandard.ZstdDecompressor().decompress(zstd(b"warm"))
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + ROOM, now + ROOM))
    tracemalloc.start()
    for name, frame in made:
        decoder = Decoder()
        decoder.decode((GOLDEN / "schema_small.msgpack").read_bytes())
        report(name, decoder, [frame])
    decoder = Decoder()
    report("schemas without end", decoder, schemas)
    print(json.dumps({"case": "memory of schemas", "answer": "", "peak": decoder.schema_bytes}))


def report(name: str, decoder: Decoder, frames: list[bytes]) -> None:
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    answer = ""
    for frame in frames:
        try:
            answer = type(decoder.decode(frame)).__name__
        except WireError as error:
            answer = str(error)
    _, peak = tracemalloc.get_traced_memory()
    print(json.dumps({"case": name, "answer": answer, "peak": peak - before}))


if __name__ == "__main__":
    sys.exit(main())

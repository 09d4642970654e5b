"""A child process that reads a map as bcc does: `items()` and `items_lookup_batch()` of bcc's own table.

    python -m bench.bcc_reader FD TYPE KEY_BYTES VALUE_BYTES MAX_ENTRIES

bcc compiles a program with such a table, so that key and value types are its own; then the table is pointed
at the map `FD`, so that all peers read one map. Commands and answers as in peers/reader.c.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_MULTIPLIER = 0x9E3779B97F4A7C15
_U64 = (1 << 64) - 1


def _source(kind: str, key_bytes: int, value_bytes: int, entries: int) -> str:
    key = {4: "u32", 8: "u64"}.get(key_bytes, "struct key")
    if kind.endswith("array"):
        key = "int"
    structs = f"struct key {{ char text[{key_bytes}]; }};\n"
    members = " ".join(f"u64 n{number};" for number in range(value_bytes // 8))
    structs += f"struct value {{ {members} }};\n"
    return f'{structs}BPF_TABLE("{kind}", {key}, struct value, rows, {entries});\n'


def _table(fd: int, kind: str, key_bytes: int, value_bytes: int, entries: int) -> Any:
    # bcc needs kernel headers; where there are none the agent makes a tree of them, and so do we.
    from bpfleet.loader.bcc_compile import compile_source
    from bpfleet.protocol import Load

    text = _source(kind, key_bytes, value_bytes, entries)
    request = Load(collector="bench", kind="bcc", source=str(Path(__file__).with_name("table.c")))
    table = compile_source(request, text)["rows"]
    table.map_fd = fd
    return table


def _hash(key: Any, leaf: Any) -> int:
    leaves = list(leaf) if hasattr(leaf, "__len__") else [leaf]
    # items_lookup_batch() gives a number where items() gives a ctypes object.
    raw = key.to_bytes(8, "little") if isinstance(key, int) else bytes(key)
    raw = raw.ljust(-(-len(raw) // 8) * 8, b"\0")
    words = [int.from_bytes(raw[at : at + 8], "little") for at in range(0, len(raw), 8)]
    for name, _ in leaves[0]._fields_:
        words.append(sum(getattr(one, name) for one in leaves) & _U64)
    found = 0
    for word in words:
        found = (found ^ word) * _MULTIPLIER & _U64
        found ^= found >> 32
    return found


def main() -> int:
    fd, kind, *sizes = int(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:])
    table = _table(fd, kind, *sizes)
    methods: dict[str, Callable[[], list[Any]]] = {
        "items": lambda: table.items(),
        "items_lookup_batch": lambda: list(table.items_lookup_batch()),
    }
    for line in sys.stdin:
        command, method, *repeats = line.split()
        if command == "digest":
            rows = methods[method]()
            print(len(rows), sum(_hash(key, leaf) for key, leaf in rows) & _U64, flush=True)
            continue
        rows = []
        began = time.perf_counter_ns()
        for _ in range(int(repeats[0])):
            rows = methods[method]()
        took = time.perf_counter_ns() - began
        print(took, len(rows), flush=True)
        del rows
        gc.collect()
    return 0


if __name__ == "__main__":
    sys.exit(main())

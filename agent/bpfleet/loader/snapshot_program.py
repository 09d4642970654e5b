"""The agent's own snapshot program (`bpf/bpfleet_bpf/snapshot.bpf.c`), loaded once for each map
that is walked."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from bpfleet.errors import UnsupportedError
from bpfleet.kernel import MapInfo, possible_cpus
from bpfleet.layout import Layout, Leaf
from bpfleet.loader.compile import object_for
from bpfleet.loader.knobs import write_knobs
from bpfleet.loader.libbpf import Log, Object
from bpfleet.loader.logs import telling_lines
from bpfleet.schema import Fold, Meaning
from bpfleet_bpf import SNAPSHOT

__all__ = ["Walker", "first_rows", "load_walker", "row_size"]

# bpf_for_each_map_elem takes these (Linux 5.13); per-CPU values of another CPU need 5.19.
_WALKABLE = {"hash", "lru_hash", "array", "percpu_hash", "lru_percpu_hash", "percpu_array"}
_OPS = {Fold.SUM: (0, 0), Fold.MIN: (1, 3), Fold.MAX: (2, 4)}  # (unsigned, signed)
_FIRST_BYTES = 1 << 20
_MOST_FOLDS = 64  # MAX_FOLDS in snapshot.bpf.c


@dataclass(frozen=True, slots=True)
class Walker:
    """Fds of the snapshot program for one map, of its row buffer and of its counters."""

    program: int
    rows: int
    counters: int
    capacity: int


def row_size(info: MapInfo) -> int:
    """Bytes of one row: key and value, each padded to 8."""
    return _padded(info.key_size) + _padded(info.value_size)


def first_rows(info: MapInfo, most_bytes: int) -> int:
    """Rows to begin with: all that the map can hold where that is little, else a MiB's worth."""
    return max(1, min(info.max_entries, min(_FIRST_BYTES, most_bytes) // row_size(info)))


def load_walker(map_fd: int, info: MapInfo, value: Layout, rows: int, *, few_cpus: int = 8) -> Walker:
    """Load the snapshot program for the map `map_fd`, with room for `rows` rows.

    Up to `few_cpus` CPUs are folded by the faster of two ways, which costs the verifier more.
    Raises UnsupportedError saying why, where this map or kernel can't have it.
    """
    if info.type_name not in _WALKABLE:
        raise UnsupportedError(f"maps of type {info.type_name} are not walked")
    path = object_for(SNAPSHOT)
    program = Object(str(path))
    knobs: dict[str, int | bytes] = {"key_size": info.key_size, "value_size": info.value_size}
    if info.per_cpu:
        steps = list(_fold_steps(value))
        if len(steps) > _MOST_FOLDS:
            raise UnsupportedError(
                f"the values of this per-CPU map need {len(steps)} folds, the program has {_MOST_FOLDS}"
            )
        knobs |= {
            "cpus": possible_cpus(),
            "few_cpus": few_cpus,
            "keep_last": int(any(leaf.fold is Fold.LAST for leaf in value.columns())),
            "newest_offset": next((a.offset for a in value.leaves if a.meaning is Meaning.TIMESTAMP), -1),
            "fold_count": len(steps),
            "folds": b"".join(steps),
        }
    write_knobs(program, path, knobs)
    log = Log()
    try:
        with log:
            program.map("target").set(
                type=info.type,
                key_size=info.key_size,
                value_size=info.value_size,
                max_entries=info.max_entries,
                reuse_fd=map_fd,
            )
            program.map("rows").set(value_size=row_size(info), max_entries=rows)
            program.map("distances").set(max_entries=possible_cpus())
            program.load()
    except OSError as error:
        raise UnsupportedError(
            f"the snapshot program can't be loaded for this map: {error.strerror or error}",
            log=telling_lines(log.text),
        ) from None
    snapshot = next(iter(program.programs())).fd
    made = Walker(os.dup(snapshot), os.dup(program.map("rows").fd), os.dup(program.map(".bss").fd), rows)
    program.close()
    return made


def _fold_steps(value: Layout) -> Iterator[bytes]:
    """`struct fold_step` for each run of equal numbers that are folded; one run where neighbours
    are alike."""
    run: tuple[int, int, int, int] | None = None
    for leaf in value.columns():
        if leaf.fold is Fold.LAST:
            continue
        width, op = leaf.element_size, _op(leaf)
        count = leaf.count or 1
        if run and run[0] + run[1] * run[2] == leaf.offset and run[2:] == (width, op):
            run = (run[0], run[1] + count, width, op)
            continue
        if run:
            yield struct.pack("=IHBB", *run)
        run = (leaf.offset, count, width, op)
    if run:
        yield struct.pack("=IHBB", *run)


def _op(leaf: Leaf) -> int:
    if leaf.base[0] == "f" or leaf.base in ("char", "bytes"):
        raise UnsupportedError(f"field {leaf.name!r} ({leaf.ctype}) can't be folded in the kernel")
    return _OPS[leaf.fold][leaf.base[0] == "s"]


def _padded(size: int) -> int:
    return -(-size // 8) * 8

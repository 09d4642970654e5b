"""Per-second rates between two snapshots of one map.

The rule (docs/wire.md): subtract only where agent, boot id, generation and key match; a program that was
loaded anew counts from zero at its load time; a key that was not there before counts from zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from bpfleet.wire import Column, Snapshot

__all__ = ["rates", "totals"]

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]

GROWING = ("counter", "histogram")


def totals(column: Column, array: Array) -> Array:
    """One number per row: the value itself, or the sum over an array's elements."""
    if array.ndim == 1:
        return array
    kind = {"u": np.uint64, "i": np.int64, "f": np.float64}[array.dtype.kind]
    summed: Array = array.sum(axis=1, dtype=kind)
    return summed


def rates(now: Snapshot, previous: Snapshot | None, rows: Sequence[int]) -> dict[str, Floats]:
    """Increase per second of each counter and histogram (its sum), for the given `rows` of `now`.

    By column name, one float64 per row; NaN where it can't be known: there is no previous snapshot, or
    the key is missing in one that was not complete. A counter that went down was evicted and began
    again, so it counts from zero. Events have no rates: each is told once.
    """
    if now.schema.is_events:
        return {}
    growing = [
        (index, column) for index, column in enumerate(now.schema.columns) if column.meaning in GROWING
    ]
    if previous is not None and previous.origin.agent != now.origin.agent:
        previous = None
    base, seconds = _base(now, previous)
    if base is None and seconds is None:
        return {column.name: np.full(len(rows), np.nan) for _, column in growing}
    before = None if base is None else _matches(now, base, rows)
    found = {}
    for index, column in growing:
        values = totals(column, now.columns[index][list(rows)])
        increase = values.astype(np.float64)
        if base is not None and before is not None:
            increase = _increase(values, totals(column, base.columns[index]), before, base.complete)
        found[column.name] = increase / seconds if seconds else np.full(len(rows), np.nan)
    return found


def _base(now: Snapshot, previous: Snapshot | None) -> tuple[Snapshot | None, float | None]:
    """(what to subtract, over how many seconds); (None, seconds): from zero; (None, None): unknown."""
    if previous is None:
        return None, None
    same = (
        previous.origin.boot == now.origin.boot
        and previous.generation == now.generation
        and previous.schema.id == now.schema.id
    )
    if not same:
        loaded = (now.t1 - now.generation) / 1e9
        return None, loaded if loaded > 0 else None
    apart = (now.t1 - previous.t1) / 1e9
    return (previous, apart) if apart > 0 else (None, None)


def _increase(values: Array, old: Array, before: list[int], complete: bool) -> Floats:
    made = np.empty(len(values), np.float64)
    for i, at in enumerate(before):
        value = values[i].item()
        if at < 0:
            made[i] = value if complete else np.nan
        else:
            # Python's integers: exact for every u64.
            was = old[at].item()
            made[i] = value - was if value >= was else value
    return made


def _matches(now: Snapshot, previous: Snapshot, rows: Sequence[int]) -> list[int]:
    """Where each row's key is in `previous`; -1 where it is not."""
    if not any(column.part == "key" for column in now.schema.columns):
        return [row if row < previous.rows else -1 for row in rows]
    keys, wanted = _keys(previous, range(previous.rows)), _keys(now, rows)
    found = []
    for key in wanted:
        hits = np.flatnonzero((keys == key).all(axis=1))
        found.append(int(hits[0]) if len(hits) else -1)
    return found


def _keys(snapshot: Snapshot, rows: Sequence[int]) -> npt.NDArray[np.uint8]:
    """The keys of some rows as bytes, one row each."""
    chosen: Any = slice(None) if isinstance(rows, range) else list(rows)
    parts = [
        np.ascontiguousarray(array[chosen]).view(np.uint8).reshape(len(rows), column.dtype.itemsize)
        for column, array in zip(snapshot.schema.columns, snapshot.columns, strict=True)
        if column.part == "key"
    ]
    return np.hstack(parts)

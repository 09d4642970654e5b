"""Per-CPU values to one value per key, in numpy: what the snapshot program does in the kernel."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from bpfleet.layout import Layout, Leaf
from bpfleet.reading.columns import Array, Bytes
from bpfleet.schema import Fold, Meaning
from bpfleet.wire.records import column_dtype

__all__ = ["fold"]


def fold(values: npt.NDArray[np.uint8], layout: Layout) -> Bytes:
    """(rows, cpus, bytes) → (rows, bytes): each column by its fold, as `schema.Fold` defines them."""
    rows, cpus, stride = values.shape
    if rows == 0:
        return np.zeros((0, stride), np.uint8)
    folded = values[np.arange(rows), _last_writer(values, layout)].copy()
    for leaf in layout.columns():
        if leaf.fold is Fold.LAST:
            continue
        source = _numbers(values.reshape(rows * cpus, stride), leaf).reshape(rows, cpus, -1)
        target = _numbers(folded, leaf).reshape(rows, -1)
        target[...] = _fold(source, leaf.fold)
    return folded


def _last_writer(values: npt.NDArray[np.uint8], layout: Layout) -> npt.NDArray[np.intp]:
    """For each row the CPU that its unfolded fields come from."""
    rows, cpus, stride = values.shape
    times = next((leaf for leaf in layout.leaves if leaf.meaning is Meaning.TIMESTAMP), None)
    if times is not None:
        newest: npt.NDArray[np.intp] = (
            _numbers(values.reshape(rows * cpus, stride), times).reshape(rows, cpus).argmax(axis=1)
        )
        return newest
    touched: npt.NDArray[np.bool_] = np.any(values != 0, axis=2)
    last: npt.NDArray[np.intp] = cpus - 1 - touched[:, ::-1].argmax(axis=1)
    return np.where(np.any(touched, axis=1), last, 0)


def _numbers(rows: npt.NDArray[np.uint8], leaf: Leaf) -> Array:
    """The leaf's numbers in `rows` (n, bytes), which is contiguous: a view of shape (n, count)."""
    dtype = column_dtype(leaf.base, None)
    return np.ndarray(
        (len(rows), leaf.count or 1), dtype, rows, leaf.offset, (rows.strides[0], dtype.itemsize)
    )


def _fold(source: Array, how: Fold) -> Array:
    """(rows, cpus, count) → (rows, count)."""
    if how is Fold.SUM:
        total: Array = source.sum(axis=1, dtype=source.dtype)
        return total
    if how is Fold.MAX:
        largest: Array = source.max(axis=1)
        return largest
    touched = np.where(source == 0, _largest(source.dtype), source).min(axis=1)
    smallest: Array = np.where((source == 0).all(axis=1), 0, touched)
    return smallest


def _largest(dtype: np.dtype[Any]) -> Any:
    return np.inf if dtype.kind == "f" else np.iinfo(dtype).max

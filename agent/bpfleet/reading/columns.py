"""Columns: strided numpy views of the leaves of keys and values in a buffer. Nothing is copied."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bpfleet.layout import Layout
from bpfleet.wire.records import column_dtype

__all__ = ["Array", "Bytes", "Read", "views"]

Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Read:
    """What one read of a map gave. `columns` (key leaves, then value leaves) are valid until the
    next read of that map."""

    method: str
    rows: int
    entries: int
    """Entries met; more than `rows` where there was no room for some."""
    columns: list[Array]
    complete: bool = True
    """False where an entry that was there during the whole read may be missing."""


def views(buffer: Bytes, start: int, stride: int, rows: int, layout: Layout) -> Iterator[Array]:
    """One view per column of `layout`; row i's bytes begin at `start + i * stride` of `buffer`."""
    for leaf in layout.columns():
        at = start + leaf.offset
        if leaf.count is None or leaf.base in ("char", "bytes"):
            dtype = column_dtype(leaf.base, leaf.count)
            yield np.ndarray((rows,), dtype, buffer, at, (stride,))
        else:
            dtype = column_dtype(leaf.base, None)
            # numpy checks the inner stride against the buffer, even for no rows and a buffer of no bytes.
            shape, strides = (rows, leaf.count), (stride, dtype.itemsize)
            yield np.ndarray(shape, dtype, buffer, at, strides) if rows else np.empty(shape, dtype)

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
        whole = leaf.count is None or leaf.base in ("char", "bytes")
        dtype = column_dtype(leaf.base, leaf.count if whole else None)
        shape = (rows,) if whole else (rows, leaf.count or 1)
        # numpy holds offset and strides against the buffer even where there are no rows, and no bytes.
        if rows:
            yield np.ndarray(
                shape, dtype, buffer, start + leaf.offset, (stride, dtype.itemsize)[: len(shape)]
            )
        else:
            yield np.empty(shape, dtype)

"""What of a map's columns a record can carry, where nobody has chosen: docs/wire.md, Limits.

A program's own scratch memory, of any size, stands among its maps and variables.
"""

from __future__ import annotations

from bpfleet.layout import Layout, Leaf
from bpfleet.wire.fields import NAME_BYTES
from bpfleet.wire.unpack import Limits

__all__ = ["ROW_BYTES", "fitting"]

_LIMITS = Limits()
_HEAD_ROOM = 64 << 10
"""Bytes of a frame that no row may take: everything but the columns."""
ROW_BYTES = _LIMITS.frame_bytes - _HEAD_ROOM
"""Bytes that one row may have."""


def fitting(key: Layout, value: Layout) -> tuple[Layout, tuple[Leaf, ...]]:
    """The value with those of its columns that fit, the first ones first; and those that don't."""
    keys, values = list(key.columns()), list(value.columns())
    # A decoder makes a column of a column; ids of stacks get one together.
    columns = _LIMITS.columns - len(keys) - sum(1 for leaf in (*keys, *values) if leaf.decode) - 1
    room = ROW_BYTES - key.size
    kept: list[Leaf] = []
    left_out: list[Leaf] = []
    for leaf in values:
        named = len(leaf.name.encode()) <= NAME_BYTES
        if columns and named and leaf.size <= min(room, _LIMITS.element_bytes):
            kept.append(leaf)
            columns -= 1
            room -= leaf.size
        else:
            left_out.append(leaf)
    return (Layout(value.size, tuple(kept)), tuple(left_out)) if left_out else (value, ())

"""Maps whose content is events, each met once: which kinds, and what the agent says of each event itself.

Needs neither numpy nor a kernel: loader and worker share it.
"""

from __future__ import annotations

from bpfleet.layout import Layout, Leaf
from bpfleet.schema import Meaning

__all__ = ["DRAINED", "OURS", "RINGS", "our_columns", "padded", "raw_event"]

RINGS = frozenset(["ringbuf", "perf_event_array"])
"""Kinds that hold records of any size, without a type of their own."""
DRAINED = RINGS | {"queue", "stack"}
"""Kinds that are drained: what is read is gone from the map."""
OURS = 16
"""Bytes in front of each event that the agent writes."""

_NUMBER = Leaf(
    "event_number", 0, "u64", None, Meaning.EVENT, "", "counts the events taken since the program was loaded"
)
_CPU = Leaf("cpu", 8, "u32", None, Meaning.LABEL, "", "the CPU whose buffer it was in")
_SIZE = Leaf("event_size", 12, "u32", None, Meaning.GAUGE, "bytes", "bytes that the program sent")


def our_columns(kind: str, *, raw: bool) -> Layout:
    """What the agent says of each event of a map of that kind; `raw`: the event has no type."""
    leaves = (_NUMBER, *((_CPU,) if kind == "perf_event_array" else ()), *((_SIZE,) if raw else ()))
    return Layout(OURS, leaves)


def raw_event(size: int) -> Layout:
    """An event of which nothing is known but that its first `size` bytes are wanted."""
    return Layout(size, (Leaf("data", 0, "bytes", size, Meaning.LABEL),))


def padded(size: int) -> int:
    """`size` in whole 8 bytes."""
    return -(-size // 8) * 8

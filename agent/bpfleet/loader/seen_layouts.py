"""Key and value of a map as its records have them, where its definition says something else.

That is so of maps of maps, and of local storage."""

from __future__ import annotations

from bpfleet.bpf_object import BpfObject
from bpfleet.layout import Layout, Leaf, nested, sized
from bpfleet.schema import Meaning

__all__ = ["HEADS", "seen_layouts"]


def _head(*leaves: tuple[str, str, int | None]) -> Layout:
    made: list[Leaf] = []
    size = 0
    for name, base, count in leaves:
        made.append(Leaf(name, size, base, count, Meaning.LABEL))
        size += made[-1].size
    return Layout(size, tuple(made))


HEADS = {
    "task_storage": _head(("tgid", "u32", None), ("pid", "u32", None), ("comm", "char", 16)),
    "sk_storage": _head(("cookie", "u64", None)),
    "cgrp_storage": _head(("cgroup", "u64", None)),
}
"""Of local storage, by type: what stands for a key in the rows, as `struct head` of each iterator has it."""
_WITH_ROWS = frozenset(
    ["hash", "lru_hash", "percpu_hash", "lru_percpu_hash", "array", "percpu_array", "lpm_trie"]
)
"""Kinds of inner maps whose entries can be read; others hold sockets, programs or events."""


def seen_layouts(made: BpfObject, name: str) -> tuple[Layout | None, Layout | None, tuple[int, int] | None]:
    """Layouts of key and value, None where the object tells no type; and `CompiledMap.inner`."""
    key, value = made.layouts_of(name)
    defined = made.maps.get(name)
    if defined is None:
        return key, value, None
    if defined.type_name in HEADS:
        return HEADS[defined.type_name], value, None
    if defined.inner is None:
        return key, value, None
    if defined.inner.type_name not in _WITH_ROWS:
        return None, Layout(0, ()), None
    inner_key, inner_value = made.layouts_of(defined.inner.name)
    inner_key = inner_key or sized(defined.inner.key_size)
    both, at = nested(key or sized(defined.key_size), inner_key)
    return both, inner_value or sized(defined.inner.value_size), (at, inner_key.size)

"""Counts that a program keeps for the agent, known by their names: beside a map `NAME` a u64 of `.bss` or,
as in BCC's dialect, an array of one u64, called `NAME_failed_inserts` or `NAME_new_keys`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from bpfleet.loader.backend import CompiledMap

__all__ = ["failed_inserts", "is_told_as_loss", "new_keys"]

_FAILED_INSERTS = "_failed_inserts"
_NEW_KEYS = "_new_keys"
_EVICTS = ("lru_hash", "lru_percpu_hash")

Maps = Mapping[str, CompiledMap]
AddFd = Callable[[int], int]


def failed_inserts(name: str, compiled: Maps, add: AddFd) -> tuple[int, int] | None:
    """Where the inserts into map `name` that the kernel refused are counted: an array's fd, bytes into its
    first element; None where nothing counts."""
    return _loaded(_place(name + _FAILED_INSERTS, compiled), add)


def new_keys(name: str, compiled: Maps, add: AddFd) -> tuple[int, int] | None:
    """Where the keys that were new to the LRU map `name` are counted; None where nothing counts, and for
    other maps: what is missing in those somebody has deleted."""
    return _loaded(_place(name + _NEW_KEYS, compiled), add) if compiled[name].kind in _EVICTS else None


def is_told_as_loss(name: str, kinds: Mapping[str, str], ctype: str = "u64") -> bool:
    """Whether the variable or map `name` is such a count, which is not read as one of the program's own.

    `kinds` are the program's maps; `ctype` is the variable's."""
    if name.endswith(_FAILED_INSERTS):
        return True
    evicts = name.endswith(_NEW_KEYS) and kinds.get(name.removesuffix(_NEW_KEYS)) in _EVICTS
    return evicts and ctype == "u64" and kinds.get(name, "array") == "array"


def _place(name: str, compiled: Maps) -> tuple[CompiledMap, int] | None:
    """The array that holds the count, and where in its first element."""
    one = compiled.get(name)
    if one is not None:
        size = one.sizes[1] if one.value is None else one.value.size
        return (one, 0) if (one.kind, size) == ("array", 8) else None
    section = compiled.get(".bss")
    if section is None or section.value is None:
        return None
    leaves = section.value.leaves
    return next(((section, leaf.offset) for leaf in leaves if (leaf.name, leaf.ctype) == (name, "u64")), None)


def _loaded(place: tuple[CompiledMap, int] | None, add: AddFd) -> tuple[int, int] | None:
    return None if place is None else (add(place[0].fd), place[1])

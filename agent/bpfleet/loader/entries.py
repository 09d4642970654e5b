"""Entries that a map holds before anything is attached: what the program only adds to, or is told by them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bpfleet import kernel, map_entries
from bpfleet.errors import ConfigError, LoadError
from bpfleet.layout import Layout, sized
from bpfleet.loader.backend import CompiledMap
from bpfleet.packing import pack

__all__ = ["SETTABLE", "seed", "types_of"]

SETTABLE = frozenset(
    ["hash", "lru_hash", "array", "percpu_hash", "lru_percpu_hash", "percpu_array", "lpm_trie"]
)
"""Kinds of map whose entries user space can put there."""


def seed(
    collector: str,
    entries: Mapping[str, Sequence[tuple[Any, Any]]],
    compiled: Mapping[str, CompiledMap],
    layouts: Mapping[str, tuple[Layout, Layout]],
) -> None:
    """Put `entries` (map → keys and values; a value None is all zeros) into their maps.

    Raises ConfigError naming map, key and both sizes where one does not fit, LoadError where the kernel
    refuses.
    """
    for name, wanted in entries.items():
        where = f"collector {collector!r}, entries of map {name!r}"
        one = compiled.get(name)
        if one is None or name.startswith("."):
            there = [other for other in compiled if not other.startswith(".")]
            raise ConfigError(
                f"there is no map {name!r} in the program",
                where=where,
                remedy=f"its maps are: {', '.join(sorted(there)) or 'none'}",
            )
        info = kernel.map_info(one.fd)
        if info.type_name not in SETTABLE:
            raise ConfigError(
                f"a map of type {info.type_name} takes no entries",
                where=where,
                remedy=f"entries go into {', '.join(sorted(SETTABLE))}",
            )
        key, value = types_of(one, layouts)
        for number, (given_key, given_value) in enumerate(wanted, 1):
            try:
                raw_key = pack(key, given_key, "the key")
                raw_value = (
                    bytes(value.size) if given_value is None else pack(value, given_value, "the value")
                )
            except ConfigError as error:
                error.where = f"{where}, number {number}"
                raise
            try:
                map_entries.put_entry(one.fd, info, raw_key, raw_value)
            except OSError as error:
                raise LoadError(
                    f"the kernel takes no entry {given_key!r}: {error.strerror}",
                    where=f"{where}, number {number}",
                    remedy=f"the map has room for {info.max_entries} entries"
                    + (", with keys from 0" if "array" in info.type_name else ""),
                ) from None


def types_of(one: CompiledMap, layouts: Mapping[str, tuple[Layout, Layout]]) -> tuple[Layout, Layout]:
    """A map's key and value: as the collector has them, else as they were compiled, else by their sizes."""
    if one.name in layouts:
        return layouts[one.name]
    info = kernel.map_info(one.fd)
    return one.key or sized(info.key_size), one.value or sized(info.value_size)

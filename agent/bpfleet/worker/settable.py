"""A section of variables, and a control map: read and written by their types.

A variable of an mmapable section is written in our memory, its bytes only and numbers in one store: nothing
that the program writes beside it is lost. Where the kernel can't map the section, the whole of it is read,
changed and written.
"""

from __future__ import annotations

import ctypes
import json
import mmap
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from bpfleet import kernel, map_entries
from bpfleet.errors import ConfigError
from bpfleet.layout import Layout, Leaf
from bpfleet.packing import assignments, members_of, pack, parse_text, unpack
from bpfleet.protocol import LoadedControl
from bpfleet.schema import Meaning

__all__ = ["ControlMap", "Section", "Shown", "as_json", "value_in"]

_MMAPABLE = 1 << 10  # BPF_F_MMAPABLE
_MOST_ENTRIES = 1000
_WHOLE = {1: ctypes.c_uint8, 2: ctypes.c_uint16, 4: ctypes.c_uint32, 8: ctypes.c_uint64}
_COUNTED = (Meaning.COUNTER, Meaning.HISTOGRAM)


@dataclass(frozen=True, slots=True)
class Shown:
    """A variable or an entry, and its value now."""

    name: str
    value: Any
    type: str
    kind: str
    """`data`, `knob` (can't be changed) or `map`."""


class Section:
    """A section of variables."""

    def __init__(self, one: LoadedControl, fd: int) -> None:
        self.name, self.layout, self._fd = one.name, one.value, fd
        self.fixed = one.name.startswith(".rodata")
        self._info = kernel.map_info(fd)
        self._memory: mmap.mmap | None = None
        if self._info.flags & _MMAPABLE:
            size = -(-self._info.value_size // mmap.PAGESIZE) * mmap.PAGESIZE
            rights = mmap.PROT_READ | (0 if self.fixed else mmap.PROT_WRITE)
            self._memory = mmap.mmap(fd, size, mmap.MAP_SHARED, rights)

    def variables(self) -> list[str]:
        return list(dict.fromkeys(leaf.name.partition(".")[0] for leaf in self.layout.columns()))

    def all(self) -> Iterator[Shown]:
        return (self.shown(name) for name in self.variables())

    def shown(self, name: str) -> Shown:
        leaves = members_of(self.layout, name)
        values = {leaf.name: value_in(leaf, self.read(leaf)) for leaf in leaves}
        value = values[""] if list(values) == [""] else values
        return Shown(name, value, _types(leaves), "knob" if self.fixed else "data")

    def writes(self, name: str, value: Any) -> Iterator[tuple[Leaf, bytes]]:
        """(leaf, bytes) of what setting `name` writes."""
        leaves = members_of(self.layout, name)
        if any(leaf.meaning in _COUNTED for leaf in leaves):
            raise ConfigError(
                f"{name!r} is counted by the program, and readers take differences of it",
                remedy="set what the program reads, not what it counts",
            )
        if isinstance(value, str):
            value = parse_text(leaves, value, repr(name))
        by_offset = {leaf.offset: leaf for leaf in self.layout.leaves}
        for offset, raw in assignments(self.layout, name, value):
            yield by_offset[offset], raw

    def read(self, leaf: Leaf) -> bytes:
        whole = self._memory if self._memory is not None else self._content()
        return bytes(whole[leaf.offset : leaf.offset + leaf.size])

    def write(self, offset: int, raw: bytes) -> None:
        if self._memory is None:
            # Whatever the program writes into the section meanwhile is lost.
            content = bytearray(self._content())
            content[offset : offset + len(raw)] = raw
            map_entries.put_entry(self._fd, self._info, bytes(4), bytes(content))
        elif len(raw) in _WHOLE:
            # One store: a program on another CPU sees the number before or the one after.
            _WHOLE[len(raw)].from_buffer(self._memory, offset).value = int.from_bytes(raw, "little")
        else:
            self._memory[offset : offset + len(raw)] = raw

    def _content(self) -> bytes:
        return map_entries.entry(self._fd, self._info, bytes(4)) or bytes(self._info.value_size)


class ControlMap:
    """A map whose entries tell the program something."""

    def __init__(self, one: LoadedControl, fd: int) -> None:
        self.name, self.key, self.value, self.fd = one.name, one.key, one.value, fd
        self.info = kernel.map_info(fd)
        self.key_type = _types(list(self.key.columns()))
        self.type = f"{self.key_type} → {_types(list(self.value.columns()))}"

    def key_of(self, key: Any) -> bytes:
        if isinstance(key, str):
            key = parse_text(list(self.key.columns()), key, "the key")
        return pack(self.key, key, "the key")

    def value_of(self, value: Any) -> bytes:
        if isinstance(value, str):
            value = parse_text(list(self.value.columns()), value, "the value")
        return pack(self.value, value, "the value")

    def present(self) -> list[bytes]:
        return map_entries.keys(self.fd, self.info, _MOST_ENTRIES)

    def read(self, key: bytes) -> bytes | None:
        return map_entries.entry(self.fd, self.info, key)

    def restore(self, key: bytes, before: bytes | None) -> None:
        if before is None:
            map_entries.delete_entry(self.fd, key)
        else:
            map_entries.put_entry(self.fd, self.info, key, before)

    def text(self, key: bytes) -> str:
        value = unpack(self.key, key)
        return value if isinstance(value, str) else as_json(value)

    def shown(self, key: bytes) -> Shown:
        raw = self.read(key)
        value = None if raw is None else unpack(self.value, raw)
        return Shown(f"{self.name}[{self.text(key)}]", value, self.type, "map")


def value_in(leaf: Leaf, raw: bytes) -> Any:
    """A leaf's value as plain data."""
    return unpack(Layout(leaf.size, (replace(leaf, offset=0),)), raw)


def _types(leaves: list[Leaf]) -> str:
    if len(leaves) == 1 and not leaves[0].name:
        return leaves[0].ctype
    return "{" + ", ".join(f"{leaf.name} {leaf.ctype}" for leaf in leaves) + "}"


def as_json(value: Any) -> str:
    """As a person would write it for `bpfleet set`."""
    return json.dumps(value, ensure_ascii=False)

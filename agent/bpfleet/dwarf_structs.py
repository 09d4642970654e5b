"""Structs that an object's debugging information tells and its BTF does not.

clang puts a type into BTF where a map, a global variable or an argument has it. What programs only have on
the stack or behind a local pointer, as the events that they submit, is in DWARF, as long as nobody strips it.
Such a struct is made BTF of here, so that it is laid out as any other.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from bpfleet.btf import Btf
from bpfleet.btf_types import Kind
from bpfleet.dwarf import Attribute, Entry, Tag, Unreadable, entries_of
from bpfleet.errors import ObjectError
from bpfleet.layout import Layout

__all__ = ["Debug"]

_MOST_BYTES = 16 << 20
"""Of `.debug_info`: more would take longer than it is worth."""
_DEEPEST = 64
_QUALIFIERS = (Tag.CONST, Tag.VOLATILE, Tag.RESTRICT, Tag.ATOMIC)
_BOOLEAN, _FLOAT, _SIGNED, _SIGNED_CHAR = 2, 4, 5, 6  # DW_ATE_…


class Debug:
    """The debugging information among an object's sections (by name), read when it is asked for.

    Only what a variable or argument is, or points to, counts: the kernel has structs of all names.
    """

    def __init__(self, sections: Mapping[str, bytes], name: str) -> None:
        self._sections, self._file = sections, name
        self._entries: dict[int, Entry] | None = None
        self._held: dict[str, int] = {}

    def struct_layout(self, name: str) -> Layout | None:
        """The layout of a struct or typedef, as a map's value; None where nothing tells it."""
        if name not in self.names():
            return None
        assert self._entries is not None
        made = _Types(self._entries)
        try:
            type_id = made.type_of(self._held[name])
            return Btf(made.section(), self._file).layout(type_id, part="value")
        except (Unreadable, ObjectError, struct.error, TypeError):  # TypeError: no number where one belongs
            return None

    def names(self) -> tuple[str, ...]:
        """Names of the structs that variables and arguments are, or point to, and of their typedefs."""
        if self._entries is None:
            self._entries = {}
            if len(self._sections.get(".debug_info", b"")) <= _MOST_BYTES:
                with suppress(Unreadable):
                    self._entries = entries_of(self._sections)
            self._held = dict(_held(self._entries))
        return tuple(self._held)


def _held(entries: Mapping[int, Entry]) -> Iterator[tuple[str, int]]:
    functions = (one for one in entries.values() if one.tag == Tag.FUNCTION_TYPE)
    of_pointers = {id(child) for one in functions for child in one.children}
    for entry in entries.values():
        if entry.tag not in (Tag.VARIABLE, Tag.PARAMETER) or id(entry) in of_pointers:
            continue
        at = entry.values.get(Attribute.TYPE, -1)
        pointers = 0
        for _ in range(_DEEPEST):
            held = entries.get(at)
            if held is None or pointers > 1:
                break
            name = held.values.get(Attribute.NAME)
            if name and held.tag in (Tag.STRUCT, Tag.TYPEDEF) and Attribute.DECLARATION not in held.values:
                yield name, at
            if held.tag == Tag.STRUCT:
                break
            pointers += held.tag == Tag.POINTER
            at = held.values.get(Attribute.TYPE, -1)


class _Types:
    """BTF of some types, made as they are asked for."""

    def __init__(self, entries: Mapping[int, Entry]) -> None:
        self._entries = entries
        self._made: list[bytes] = []
        self._names = bytearray(1)
        self._ids: dict[int, int] = {}
        self._open: set[int] = set()
        self._index = self._add("", Kind.INT, 4, more=struct.pack("<I", 32))

    def section(self) -> bytes:
        """The whole `.BTF` section."""
        types = b"".join(self._made)
        head = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(self._names))
        return head + types + bytes(self._names)

    def type_of(self, at: int | None) -> int:
        """The id of the type of the entry there; 0, which is void, where there is none."""
        if at is None:
            return 0
        if at not in self._ids:
            if at not in self._entries or at in self._open or len(self._open) > _DEEPEST:
                raise Unreadable
            self._open.add(at)
            self._ids[at] = self._make(self._entries[at])
            self._open.discard(at)
        return self._ids[at]

    def _make(self, entry: Entry) -> int:
        values = entry.values
        name, size, inner = (
            values.get(Attribute.NAME, ""),
            values.get(Attribute.BYTE_SIZE, 0),
            values.get(Attribute.TYPE),
        )
        if entry.tag in _QUALIFIERS:
            return self.type_of(inner)
        if entry.tag == Tag.TYPEDEF:
            return self._add(name, Kind.TYPEDEF, self.type_of(inner))
        if entry.tag == Tag.POINTER:
            return self._add("", Kind.PTR, 0)
        if entry.tag == Tag.BASE:
            return self._number(name, size, values.get(Attribute.ENCODING, 0))
        if entry.tag == Tag.ENUM:
            below_zero = any(one.values.get(Attribute.CONST_VALUE, 0) < 0 for one in entry.children)
            return self._add(name, Kind.ENUM, size, flag=below_zero)
        if entry.tag == Tag.ARRAY:
            return self._array(entry, self.type_of(inner))
        if entry.tag in (Tag.STRUCT, Tag.UNION) and Attribute.DECLARATION not in values:
            return self._composite(entry, name, size)
        raise Unreadable

    def _number(self, name: str, size: int, encoding: int) -> int:
        if encoding == _FLOAT:
            return self._add(name, Kind.FLOAT, size)
        signed, boolean = encoding in (_SIGNED, _SIGNED_CHAR), encoding == _BOOLEAN
        return self._add(
            name, Kind.INT, size, more=struct.pack("<I", (signed | boolean << 2) << 24 | size * 8)
        )

    def _array(self, entry: Entry, element: int) -> int:
        for one in reversed([child for child in entry.children if child.tag == Tag.RANGE]):
            count = one.values.get(Attribute.COUNT, one.values.get(Attribute.UPPER_BOUND, -1) + 1)
            element = self._add("", Kind.ARRAY, 0, more=struct.pack("<III", element, self._index, count))
        return element

    def _composite(self, entry: Entry, name: str, size: int) -> int:
        members = []
        for one in (child for child in entry.children if child.tag == Tag.MEMBER):
            bits = one.values.get(Attribute.BIT_SIZE, 0)
            place = _bit_place(one.values, bits)
            type_id = self.type_of(one.values.get(Attribute.TYPE))
            members.append(
                struct.pack(
                    "<III", self._name(one.values.get(Attribute.NAME, "")), type_id, bits << 24 | place
                )
            )
        kind = Kind.STRUCT if entry.tag == Tag.STRUCT else Kind.UNION
        return self._add(name, kind, size, length=len(members), flag=True, more=b"".join(members))

    def _add(
        self,
        name: str,
        kind: Kind,
        size_or_type: int,
        *,
        length: int = 0,
        flag: bool = False,
        more: bytes = b"",
    ) -> int:
        info = flag << 31 | kind << 24 | length
        self._made.append(struct.pack("<III", self._name(name), info, size_or_type) + more)
        return len(self._made)

    def _name(self, name: str) -> int:
        if not name:
            return 0
        at = len(self._names)
        self._names += name.encode() + b"\0"
        return at


def _bit_place(values: Mapping[int, Any], bits: int) -> int:
    """Where a member begins, in bits."""
    if bits and Attribute.BIT_PLACE in values:
        return int(values[Attribute.BIT_PLACE])
    place = (values.get(Attribute.PLACE) or 0) * 8
    if not bits:
        return int(place)
    # As DWARF had it before version 4, and clang writes it for gdb: counted from the highest bit of a number.
    if Attribute.BYTE_SIZE not in values or Attribute.BIT_OFFSET not in values:
        raise Unreadable
    return int(place + values[Attribute.BYTE_SIZE] * 8 - values[Attribute.BIT_OFFSET] - bits)

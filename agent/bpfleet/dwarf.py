"""The entries of an object's debugging information: what each is, with its name, type, size and children.

Formats: DWARF 4 and 5, sections 7.4 to 7.6, 32-bit. An object is not linked, and its relocations against
sections that begin at 0 are in place already.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

__all__ = ["Attribute", "Entry", "Tag", "Unreadable", "entries_of"]


class Tag(IntEnum):
    """What an entry is (DWARF 5, table 7.3): those that are looked at."""

    ARRAY = 0x01
    ENUM = 0x04
    PARAMETER = 0x05
    MEMBER = 0x0D
    POINTER = 0x0F
    UNIT = 0x11
    STRUCT = 0x13
    FUNCTION_TYPE = 0x15
    TYPEDEF = 0x16
    UNION = 0x17
    RANGE = 0x21
    BASE = 0x24
    CONST = 0x26
    ENUMERATOR = 0x28
    VARIABLE = 0x34
    VOLATILE = 0x35
    RESTRICT = 0x37
    ATOMIC = 0x47


class Attribute(IntEnum):
    """What is known of an entry (table 7.5): that which is kept."""

    NAME = 0x03
    BYTE_SIZE = 0x0B
    BIT_OFFSET = 0x0C
    BIT_SIZE = 0x0D
    CONST_VALUE = 0x1C
    UPPER_BOUND = 0x2F
    COUNT = 0x37
    PLACE = 0x38
    DECLARATION = 0x3C
    ENCODING = 0x3E
    TYPE = 0x49
    BIT_PLACE = 0x6B
    STRINGS_BASE = 0x72


_KEPT = frozenset(map(int, Attribute))
_FIXED = {
    **dict.fromkeys((0x0B, 0x0C, 0x11, 0x25, 0x29), 1),
    **dict.fromkeys((0x05, 0x12, 0x26, 0x2A), 2),
    **dict.fromkeys((0x27, 0x2B), 3),
    **dict.fromkeys((0x06, 0x0E, 0x10, 0x13, 0x17, 0x1F, 0x28, 0x2C), 4),
    **dict.fromkeys((0x01, 0x07, 0x14, 0x20), 8),
    0x1E: 16,
    0x19: 0,  # a flag that is there
}
"""Forms of a fixed size, in bytes (table 7.6)."""
_NUMBERS_OF_ANY_SIZE = (0x0F, 0x15, 0x1A, 0x1B, 0x22, 0x23)
_STRING, _SIGNED, _BLOCK, _EXPRESSION, _IMPLICIT = 0x08, 0x0D, 0x09, 0x18, 0x21
_BLOCKS = {0x0A: 1, 0x03: 2, 0x04: 4}
_IN_UNIT = (0x11, 0x12, 0x13, 0x14, 0x15)
_STRP, _LINE_STRP, _PRESENT = 0x0E, 0x1F, 0x19
_INDEXED = (0x1A, 0x25, 0x26, 0x27, 0x28)


class Unreadable(Exception):
    """Raised for what is malformed, or not known here."""


@dataclass(slots=True)
class Entry:
    """One entry; a type stands in `values` as the offset of its entry."""

    tag: int
    values: dict[int, Any]
    children: list[Entry] = field(default_factory=list)


def entries_of(sections: Mapping[str, bytes]) -> dict[int, Entry]:
    """Every entry by its offset in `.debug_info`; raises Unreadable."""
    try:
        return dict(_Reader(sections).entries(sections.get(".debug_info", b"")))
    except (struct.error, IndexError, ValueError):
        raise Unreadable from None


class _Reader:
    def __init__(self, sections: Mapping[str, bytes]) -> None:
        self._abbreviations = sections.get(".debug_abbrev", b"")
        self._strings = sections.get(".debug_str", b"")
        self._line_strings = sections.get(".debug_line_str", b"")
        self._offsets = sections.get(".debug_str_offsets", b"")
        self._base = 8

    def entries(self, info: bytes) -> Iterator[tuple[int, Entry]]:
        """Every entry of every unit, by its offset."""
        at = 0
        while at < len(info):
            (length,) = struct.unpack_from("<I", info, at)
            end = at + 4 + length
            if end > len(info) or length < 8:
                raise Unreadable
            yield from self._unit(info[:end], at)
            at = end

    def _unit(self, data: bytes, start: int) -> Iterator[tuple[int, Entry]]:
        (version,) = struct.unpack_from("<H", data, start + 4)
        if version == 5:
            (table,) = struct.unpack_from("<I", data, start + 8)
            at = start + 12
        elif version == 4:
            (table,) = struct.unpack_from("<I", data, start + 6)
            at = start + 11
        else:
            raise Unreadable
        known = self._table(table)
        self._base = 8
        parents: list[Entry] = []
        while at < len(data):
            place = at
            code, at = _unsigned(data, at)
            if code == 0:
                if parents:
                    parents.pop()
                continue
            if code not in known:
                raise Unreadable
            tag, has_children, forms = known[code]
            values: dict[int, Any] = {}
            for attribute, form, constant in forms:
                value, at = self._value(data, at, start, form, constant, attribute in _KEPT)
                if attribute in _KEPT:
                    values[attribute] = value
            if tag == Tag.UNIT:
                self._base = values.get(Attribute.STRINGS_BASE, 8)
            entry = Entry(tag, values)
            if isinstance(values.get(Attribute.NAME), int):
                values[Attribute.NAME] = self._indexed(values[Attribute.NAME])
            if parents:
                parents[-1].children.append(entry)
            if has_children:
                parents.append(entry)
            yield place, entry

    def _table(self, at: int) -> dict[int, tuple[int, int, list[tuple[int, int, int]]]]:
        data = self._abbreviations
        found: dict[int, tuple[int, int, list[tuple[int, int, int]]]] = {}
        while True:
            code, at = _unsigned(data, at)
            if not code:
                return found
            tag, at = _unsigned(data, at)
            has_children, at = data[at], at + 1
            forms: list[tuple[int, int, int]] = []
            while True:
                attribute, at = _unsigned(data, at)
                form, at = _unsigned(data, at)
                constant = 0
                if form == _IMPLICIT:
                    constant, at = _signed(data, at)
                if not attribute and not form:
                    break
                forms.append((attribute, form, constant))
            found[code] = tag, has_children, forms

    def _value(
        self, data: bytes, at: int, start: int, form: int, constant: int, wanted: bool
    ) -> tuple[Any, int]:
        """An attribute's value and where the next one begins. A name may be an index still."""
        if form in _FIXED:
            size = _FIXED[form]
            if not wanted:
                return None, at + size
            number = int.from_bytes(data[at : at + size], "little") if form != _PRESENT else 1
            if form in _IN_UNIT:
                number += start
            if form == _STRP:
                return _text(self._strings, number), at + size
            if form == _LINE_STRP:
                return _text(self._line_strings, number), at + size
            return number, at + size
        if form in _NUMBERS_OF_ANY_SIZE:
            number, at = _unsigned(data, at)
            return number + (start if form in _IN_UNIT else 0), at
        if form == _SIGNED:
            return _signed(data, at)
        if form == _IMPLICIT:
            return constant, at
        if form == _STRING:
            text = _text(data, at)
            return text, data.index(b"\0", at) + 1
        if form in (_BLOCK, _EXPRESSION):
            size, at = _unsigned(data, at)
            return None, at + size
        if form in _BLOCKS:
            width = _BLOCKS[form]
            return None, at + width + int.from_bytes(data[at : at + width], "little")
        raise Unreadable

    def _indexed(self, index: int) -> str:
        (at,) = struct.unpack_from("<I", self._offsets, self._base + 4 * index)
        return _text(self._strings, at)


def _unsigned(data: bytes, at: int) -> tuple[int, int]:
    number = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
    raise Unreadable


def _signed(data: bytes, at: int) -> tuple[int, int]:
    start = at
    number, at = _unsigned(data, at)
    bits = 7 * (at - start)
    return number - (1 << bits) if number >> (bits - 1) else number, at


def _text(data: bytes, at: int) -> str:
    return data[at : data.index(b"\0", at)].decode("utf-8", "replace")

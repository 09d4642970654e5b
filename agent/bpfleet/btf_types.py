"""The types of a `.BTF` section, decoded one by one when they are asked for.

Format: the kernel's Documentation/bpf/btf.rst and `include/uapi/linux/btf.h`. Only an index of where each
type begins is made at first, so that a kernel's own hundred thousand types are read in a fraction of a
second. Whatever is malformed raises ObjectError, and nothing else.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from bpfleet.checked_bytes import CheckedBytes
from bpfleet.errors import ObjectError

__all__ = ["FOLLOWING", "MAX_DEPTH", "Enumerator", "Integer", "Kind", "Member", "Type", "Types", "Variable"]

MAX_DEPTH = 32
"""Types inside types, as the kernel limits them (MAX_RESOLVE_DEPTH)."""

_MAGIC = 0xEB9F
_HEADER = struct.Struct("<HBBIIIII")
_TYPE = struct.Struct("<III")
_WORD = struct.Struct("<I")
_TRIPLE = struct.Struct("<III")
_ENUMERATOR = struct.Struct("<Ii")
_MAX_SIZE = 0xFFFFFFFF
_POINTER_SIZE = 8


class Kind(IntEnum):
    """What a type is."""

    VOID = 0
    INT = 1
    PTR = 2
    ARRAY = 3
    STRUCT = 4
    UNION = 5
    ENUM = 6
    FWD = 7
    TYPEDEF = 8
    VOLATILE = 9
    CONST = 10
    RESTRICT = 11
    FUNC = 12
    FUNC_PROTO = 13
    VAR = 14
    DATASEC = 15
    FLOAT = 16
    DECL_TAG = 17
    TYPE_TAG = 18
    ENUM64 = 19


_NAMES = {kind: kind.name.lower().replace("_", " ") for kind in Kind}
_SKIPPED = (Kind.TYPEDEF, Kind.VOLATILE, Kind.CONST, Kind.RESTRICT, Kind.TYPE_TAG)
_SIZED = (Kind.INT, Kind.STRUCT, Kind.UNION, Kind.ENUM, Kind.DATASEC, Kind.FLOAT, Kind.ENUM64)

FOLLOWING = [(0, 0)] * len(Kind)
"""By kind: bytes that follow each type's first 12, and bytes for each of its `length` elements."""
FOLLOWING[Kind.INT] = FOLLOWING[Kind.VAR] = FOLLOWING[Kind.DECL_TAG] = (4, 0)
FOLLOWING[Kind.ARRAY] = (12, 0)
FOLLOWING[Kind.ENUM] = FOLLOWING[Kind.FUNC_PROTO] = (0, 8)
FOLLOWING[Kind.STRUCT] = FOLLOWING[Kind.UNION] = (0, 12)
FOLLOWING[Kind.DATASEC] = FOLLOWING[Kind.ENUM64] = (0, 12)


@dataclass(frozen=True, slots=True)
class Type:
    """One type: `size` in bytes or `ref`, the type it refers to, whichever its kind has.

    `length` is the number of its members, names or variables; they begin at `at`. `flag` is BTF's kind_flag.
    """

    id: int
    kind: Kind
    name: str
    size: int
    ref: int
    flag: bool
    length: int
    at: int

    def __str__(self) -> str:
        return f"{_NAMES[self.kind]} {self.name or '(no name)'} (type {self.id})" if self.id else "void"


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a struct or union; `bits` is a bitfield's width, 0 where it is none."""

    name: str
    type: int
    bit_offset: int
    bits: int


@dataclass(frozen=True, slots=True)
class Integer:
    """What an int says beyond its size."""

    signed: bool
    boolean: bool
    bits: int
    bit_offset: int


@dataclass(frozen=True, slots=True)
class Enumerator:
    """One name of an enum and its value."""

    name: str
    value: int


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable of a section: its VAR type, its offset (0 before linking) and size in bytes."""

    type: int
    offset: int
    size: int


class Types:
    """All types of one `.BTF` section, by id; id 0 is void. `len()` counts void too."""

    def __init__(self, data: bytes, name: str) -> None:
        self._file = CheckedBytes(data, name)
        self._strings, self._strings_end, start, end = self._header()
        self._offsets = array("I", [0])
        self._kinds = bytearray(1)
        self._resolved: dict[int, Type] = {}
        self._sizes: dict[int, int] = {}
        self._index(start, end)

    def __len__(self) -> int:
        return len(self._offsets)

    def error(self, what: str, place: str, remedy: str = "") -> ObjectError:
        """An ObjectError about `place` in these types."""
        return self._file.error(what, place, remedy) if remedy else self._file.error(what, place)

    def type(self, type_id: int) -> Type:
        """The type of that id."""
        if not 0 <= type_id < len(self._offsets):
            raise self.error(f"there is no type {type_id} (of {len(self._offsets)})", "BTF types")
        if not type_id:
            return Type(0, Kind.VOID, "void", 0, 0, False, 0, 0)
        at = self._offsets[type_id]
        name, info, last = _TYPE.unpack_from(self._file.data, at)
        kind = Kind(self._kinds[type_id])
        size, ref = (last, 0) if kind in _SIZED else (0, last)
        text = self._text(name, f"the name of BTF type {type_id}")
        return Type(type_id, kind, text, size, ref, bool(info >> 31), info & 0xFFFF, at + _TYPE.size)

    def of_kind(self, *kinds: Kind) -> Iterator[Type]:
        """Every type of those kinds, by id."""
        return (self.type(number) for number, kind in enumerate(self._kinds) if kind in kinds and number)

    def find(self, name: str, kind: Kind) -> Type | None:
        """The first type of that kind and name."""
        wanted = name.encode() + b"\0"
        for number, other in enumerate(self._kinds):
            if other == kind and number:
                (at,) = _WORD.unpack_from(self._file.data, self._offsets[number])
                if self._file.data.startswith(wanted, self._strings + at, self._strings_end):
                    return self.type(number)
        return None

    def resolve(self, type_id: int) -> Type:
        """The type behind typedefs, qualifiers and type tags."""
        if type_id not in self._resolved:
            self._resolved[type_id] = self._skip(type_id)
        return self._resolved[type_id]

    def size_of(self, type_id: int) -> int:
        """Bytes of a value of that type; raises ObjectError for one that has none, such as void."""
        if type_id not in self._sizes:
            self._sizes[type_id] = self._measure(type_id)
        return self._sizes[type_id]

    def _skip(self, type_id: int) -> Type:
        found = self.type(type_id)
        for _ in range(MAX_DEPTH):
            if found.kind not in _SKIPPED:
                return found
            found = self.type(found.ref)
        raise self.error(f"more than {MAX_DEPTH} typedefs or qualifiers in a row", f"BTF type {type_id}")

    def _measure(self, type_id: int) -> int:
        count, found = 1, self.resolve(type_id)
        for _ in range(MAX_DEPTH):
            if found.kind in _SIZED or found.kind is Kind.PTR:
                size = count * (found.size if found.kind in _SIZED else _POINTER_SIZE)
                if size > _MAX_SIZE:
                    break
                return size
            if found.kind is Kind.ARRAY:
                element, length = self.array(found)
                count, found = count * length, self.resolve(element)
            elif found.kind is Kind.VAR:
                found = self.resolve(found.ref)
            else:
                place = f"BTF type {type_id}"
                raise self.error(f"{found} has no size", place, "complete the type in the C source")
        raise self.error("it is too large or too deeply nested", f"BTF type {type_id}")

    def members(self, type: Type) -> Iterator[Member]:
        """Members of a struct or union, in its order."""
        for name, ref, place in self._triples(type):
            bits, bit_offset = (place >> 24, place & 0xFFFFFF) if type.flag else (0, place)
            yield Member(self._text(name, f"a member of {type}"), ref, bit_offset, bits)

    def array(self, type: Type) -> tuple[int, int]:
        """The id of an array's elements and their number."""
        element, _, length = _TRIPLE.unpack_from(self._file.data, type.at)
        return element, length

    def integer(self, type: Type) -> Integer:
        """What an int says beyond its size."""
        (word,) = _WORD.unpack_from(self._file.data, type.at)
        encoding = word >> 24 & 0xF
        return Integer(bool(encoding & 1), bool(encoding & 4), word & 0xFF, word >> 16 & 0xFF)

    def enumerators(self, type: Type) -> Iterator[Enumerator]:
        """Names and values of an enum, 32 or 64 bits."""
        if type.kind is Kind.ENUM64:
            for name, low, high in self._triples(type):
                value = high << 32 | low
                if type.flag and high >> 31:
                    value -= 1 << 64
                yield Enumerator(self._text(name, f"a name of {type}"), value)
            return
        for index in range(type.length):
            name, value = _ENUMERATOR.unpack_from(self._file.data, type.at + 8 * index)
            yield Enumerator(self._text(name, f"a name of {type}"), value)

    def variables(self, type: Type) -> Iterator[Variable]:
        """Variables of a data section, in its order."""
        return (Variable(ref, offset, size) for ref, offset, size in self._triples(type))

    def linkage(self, type: Type) -> int:
        """Of a variable: 0 static, 1 global, 2 extern."""
        (number,) = _WORD.unpack_from(self._file.data, type.at)
        return int(number)

    def _triples(self, type: Type) -> Iterator[tuple[int, int, int]]:
        return (_TRIPLE.unpack_from(self._file.data, type.at + 12 * index) for index in range(type.length))

    def _text(self, at: int, place: str) -> str:
        if at >= self._strings_end - self._strings:
            raise self.error(f"offset {at} is beyond the strings", place)
        return self._file.text(self._strings + at, self._strings_end, place)

    def _header(self) -> tuple[int, int, int, int]:
        file, place = self._file, "the BTF header"
        magic, version, _, length, types, types_size, strings, strings_size = file.unpack(_HEADER, 0, place)
        if magic == 0x9FEB:
            raise file.error("the BTF is big-endian", place, "compile it with clang -target bpfel")
        if magic != _MAGIC or version != 1:
            raise file.error(f"magic {magic:#x} and version {version} are not BTF's", place)
        if length < _HEADER.size:
            raise file.error(f"a header of {length} bytes is too short", place)
        file.check(length + types, types_size, "the BTF types")
        file.check(length + strings, strings_size, "the BTF strings")
        start = length + strings
        if not strings_size or file.data[start] or file.data[start + strings_size - 1]:
            raise file.error("they neither begin nor end with a NUL", "the BTF strings")
        return start, start + strings_size, length + types, length + types + types_size

    def _index(self, at: int, end: int) -> None:
        unpack, data, offsets, kinds = _TYPE.unpack_from, self._file.data, self._offsets, self._kinds
        while at < end:
            if at + 12 > end:
                raise self.error("it is cut off", f"BTF type {len(offsets)}")
            info = unpack(data, at)[1]
            kind = info >> 24 & 0x1F
            if not 0 < kind < len(FOLLOWING):
                raise self.error(
                    f"its kind {kind} is unknown", f"BTF type {len(offsets)}", "a newer bpfleet may know it"
                )
            offsets.append(at)
            kinds.append(kind)
            fixed, each = FOLLOWING[kind]
            at += 12 + fixed + each * (info & 0xFFFF)
        if at != end:
            raise self.error("it is cut off", f"BTF type {len(offsets) - 1}")

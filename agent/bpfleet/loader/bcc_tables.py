"""bcc's description of a table's key or leaf, as a layout.

bcc describes a C type as JSON: a base type is its C name; a struct or union is `[name, members, kind]`
with kind `struct`, `struct_packed` or `union`; a member is `[name, type]`, `[name, type, [length]]` for
an array, `[name, type, bits]` for a bit-field, or a struct itself where it has no name. bcc names the
gaps of a struct (`__pad_1`) and calls such a struct packed, so whether the C struct was packed, and with
it the alignment where it is nested, is lost. Both readings are laid out and held against the size that the
kernel knows; what stays in doubt is no layout, never a guess.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from bpfleet.layout import Layout, Leaf
from bpfleet.schema import Meaning

__all__ = ["event_layout", "layout_of"]

_BASES = {
    # C name: (base, size, count); a count where no base of a layout is that wide.
    "_Bool": ("bool", 1, None),
    "char": ("char", 1, None),
    "signed char": ("s8", 1, None),
    "unsigned char": ("u8", 1, None),
    "short": ("s16", 2, None),
    "unsigned short": ("u16", 2, None),
    "int": ("s32", 4, None),
    "unsigned int": ("u32", 4, None),
    "long": ("s64", 8, None),
    "unsigned long": ("u64", 8, None),
    "long long": ("s64", 8, None),
    "unsigned long long": ("u64", 8, None),
    "float": ("f32", 4, None),
    "double": ("f64", 8, None),
    "__int128": ("bytes", 16, 16),
    "unsigned __int128": ("bytes", 16, 16),
}


class _Unclear(Exception):
    """The description leaves the bytes in doubt."""


@dataclass(frozen=True, slots=True)
class _Placed:
    """A type laid out from offset 0: its leaves, size and alignment."""

    leaves: tuple[Leaf, ...]
    size: int
    align: int


_EVENT_TYPES = {
    **{f"{sign}{bits}": (f"{sign}{bits}", bits // 8, None) for sign in "us" for bits in (8, 16, 32, 64)},
    **{f"__{sign}{bits}": (f"{sign}{bits}", bits // 8, None) for sign in "us" for bits in (8, 16, 32, 64)},
    **{f"uint{bits}_t": (f"u{bits}", bits // 8, None) for bits in (8, 16, 32, 64)},
    **{f"int{bits}_t": (f"s{bits}", bits // 8, None) for bits in (8, 16, 32, 64)},
    "bool": ("bool", 1, None),
    "pid_t": ("s32", 4, None),
    "size_t": ("u64", 8, None),
}
_EVENT_FIELD = re.compile(r"(\w+)#(.*?)(?: ?\[(\d+)\])?\Z")


def event_layout(fields: Sequence[str]) -> Layout | None:
    """The layout of what a program submits, of bcc's descriptions (`comm#char[16]`) of the struct's members.

    They name C types as the source does. None where one is not known here, such as a struct.
    """
    leaves: list[Leaf] = []
    offset, widest = 0, 1
    for field in fields:
        found = _EVENT_FIELD.match(field)
        if found is None:
            return None
        name, ctype, length = found.groups()
        ctype = (
            "unsigned long" if ctype.endswith("*") else "unsigned int" if ctype.startswith("enum") else ctype
        )
        known = _BASES.get(ctype) or _EVENT_TYPES.get(ctype)
        if known is None or (length and known[2] is not None):
            return None
        base, size, count = known
        offset = -(-offset // size) * size
        is_label = base in ("char", "bytes") or field.endswith("*")
        meaning = Meaning.LABEL if is_label else Meaning.GAUGE
        leaves.append(Leaf(name, offset, base, int(length) if length else count, meaning))
        offset += size * int(length or 1)
        widest = max(widest, size)
    return Layout(-(-offset // widest) * widest, tuple(leaves)) if leaves else None


def layout_of(description: str, size: int) -> Layout | None:
    """The layout that bcc's JSON `description` says; `size` is the kernel's, in bytes.

    A key or leaf that is no struct is one leaf with an empty name. Unions and arrays of structs are
    bytes, pointers u64, enums u32. None where the description and the size don't agree (bcc drops the
    second dimension of an array, and the length of one behind a typedef), or has bit-fields.
    """
    if not description:
        return Layout(0, ()) if size == 0 else None
    try:
        described = json.loads(description)
        readings = [_type(described, natural) for natural in (True, False)]
    except (ValueError, TypeError, LookupError, _Unclear):
        return None
    fitting = {Layout(placed.size, placed.leaves) for placed in readings if placed.size == size}
    return fitting.pop() if len(fitting) == 1 else None


def _type(described: Any, natural: bool) -> _Placed:
    if isinstance(described, str):
        base, size, count = _BASES[described]
        return _Placed((Leaf("", 0, base, count),), size, size)
    _, members, *kinds = described
    kind = kinds[0] if kinds else "struct"
    if kind == "union":
        return _union(members, natural)
    return _struct(members, kind == "struct_packed", natural)


def _struct(members: Sequence[Any], packed: bool, natural: bool) -> _Placed:
    leaves: list[Leaf] = []
    offset, widest, in_place = 0, 1, True
    for member in members:
        name, placed = _member(member, natural)
        if not packed:
            offset = -(-offset // placed.align) * placed.align
        in_place = in_place and offset % placed.align == 0
        leaves.extend(_named(leaf, name, offset) for leaf in placed.leaves)
        offset += placed.size
        widest = max(widest, placed.align)
    if packed:
        # All gaps are named. Where each member lies as C would lay it, it may well be an ordinary struct.
        ordinary = natural and in_place and offset % widest == 0
        return _Placed(tuple(leaves), offset, widest if ordinary else 1)
    return _Placed(tuple(leaves), -(-offset // widest) * widest, widest)


def _union(members: Sequence[Any], natural: bool) -> _Placed:
    named = [_member(member, natural) for member in members]
    align = max(placed.align for _, placed in named)
    size = -(-max(placed.size for _, placed in named) // align) * align
    return _Placed((Leaf("", 0, "bytes", size),), size, align)


def _member(member: Sequence[Any], natural: bool) -> tuple[str, _Placed]:
    """A member's name ("" for an anonymous struct) and its type, laid out."""
    name, described, *more = member
    if more and isinstance(more[0], str):
        placed = _type(member, natural)
        if more[0] == "union":
            # A column needs a name: that of the anonymous union's first member.
            placed = replace(placed, leaves=(replace(placed.leaves[0], name=described[0][0]),))
        return "", placed
    placed = _type(described, natural)
    if not more:
        return name, placed
    if not isinstance(more[0], list) or len(more[0]) != 1:
        raise _Unclear
    return name, _array(placed, more[0][0])


def _array(element: _Placed, length: int) -> _Placed:
    size = element.size * length
    if len(element.leaves) == 1 and not element.leaves[0].name and element.leaves[0].count is None:
        return _Placed((replace(element.leaves[0], count=length),) if length else (), size, element.align)
    return _Placed((Leaf("", 0, "bytes", size),) if size else (), size, element.align)


def _named(leaf: Leaf, name: str, offset: int) -> Leaf:
    full = f"{name}.{leaf.name}" if name and leaf.name else name or leaf.name
    moved = replace(leaf, name=full, offset=leaf.offset + offset)
    if full.rpartition(".")[2].startswith("__pad_"):
        return replace(moved, base="bytes", count=moved.size, meaning=Meaning.PADDING)
    return moved

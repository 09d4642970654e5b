"""Values as people write them to the bytes of a key, a value or a variable, and back; checked by a layout.

    pack(key_layout, "/usr/bin/ls", "the key")           char[64]: 64 bytes, the rest NUL
    pack(value_layout, {"start": 0, "total": 5}, "…")    a struct, member by member
    assignments(section_layout, "limits", {"low": 3})    [(offset, bytes)]: only the members that are named

A number is a number (bool for 0 and 1), text is text, an array is a list, a struct is a mapping (`a.b` where
structs nest, or mappings in mappings). `bytes` are taken as they are.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

from bpfleet.checked_bytes import printable
from bpfleet.errors import ConfigError
from bpfleet.layout import Layout, Leaf
from bpfleet.schema import Meaning

__all__ = ["Value", "assignments", "leaf_value", "members_of", "pack", "parse_text", "unpack"]

Value = bool | int | float | str | bytes | list[bool | int | float]
"""A leaf's content: a number, numbers, text up to the first NUL, or bytes."""

_FORMATS = {"bool": "?", "f32": "f", "f64": "d"} | {
    f"{sign}{bits}": code.upper() if sign == "u" else code
    for bits, code in ((8, "b"), (16, "h"), (32, "i"), (64, "q"))
    for sign in "us"
}


def pack(layout: Layout, value: Any, what: str) -> bytes:
    """The bytes of `value`, which is known in messages as `what`; raises ConfigError where it does not fit.

    Of a struct every member must be there. `bytes` must have the layout's size.
    """
    if isinstance(value, bytes):
        if len(value) != layout.size:
            raise ConfigError(
                f"{what} is {len(value)} bytes long, and must be {layout.size}",
                remedy=f"give {layout.size} bytes, or a value by its type: {_types(layout)}",
            )
        return value
    made = bytearray(layout.size)
    leaves = list(layout.columns())
    if isinstance(value, Mapping):
        given = _by_leaf(leaves, value, what)
        missing = [leaf.name for leaf in leaves if leaf.name not in given]
        if missing:
            raise ConfigError(
                f"{what} lacks {', '.join(map(repr, missing))}", remedy=f"give every member: {_types(layout)}"
            )
    elif len(leaves) == 1:
        given = {leaves[0].name: value}
    else:
        raise ConfigError(
            f"{what} is {_shown(value)}, and must be a table of members",
            remedy=f"its members are {_types(layout)}",
        )
    for leaf in leaves:
        raw = _packed(leaf, given[leaf.name], what if leaf.name == "" or len(leaves) == 1 else leaf.name)
        made[leaf.offset : leaf.offset + leaf.size] = raw
    return bytes(made)


def members_of(section: Layout, name: str) -> list[Leaf]:
    """The leaves of a variable (`limits`), or of a member of one (`limits.low`), in a section of variables;
    none where there is no such variable. Their names are what follows `name`."""
    exact = [replace(leaf, name="") for leaf in section.leaves if leaf.name == name]
    prefix = f"{name}."
    return exact or [
        replace(leaf, name=leaf.name.removeprefix(prefix))
        for leaf in section.columns()
        if leaf.name.startswith(prefix)
    ]


def assignments(section: Layout, name: str, value: Any) -> list[tuple[int, bytes]]:
    """What setting variable `name` writes, as (offset, bytes); of a struct only the members that are named.

    Raises ConfigError where the value does not fit; the variable must be there (`members_of`).
    """
    leaves = members_of(section, name)
    if isinstance(value, Mapping):
        given = _by_leaf(leaves, value, repr(name))
        return [(one.offset, _packed(one, given[one.name], one.name)) for one in leaves if one.name in given]
    if len(leaves) != 1:
        raise ConfigError(
            f"{name!r} is a struct, and can't be {_shown(value)}",
            remedy=f"give a table of members: {', '.join(f'{one.name} ({one.ctype})' for one in leaves)}",
        )
    return [(leaves[0].offset, _packed(leaves[0], value, repr(name)))]


def unpack(layout: Layout, raw: bytes) -> Any:
    """What `pack` would take: the value of a layout of one leaf, else a mapping by leaf; bytes as hexadecimal
    text."""
    found = {
        leaf.name: leaf_value(raw[leaf.offset : leaf.offset + leaf.size], leaf) for leaf in layout.columns()
    }
    plain = {name: one.hex() if isinstance(one, bytes) else one for name, one in found.items()}
    return next(iter(plain.values())) if len(plain) == 1 else plain


def leaf_value(raw: bytes, leaf: Leaf) -> Value:
    """A leaf's content from its bytes."""
    if leaf.base == "char":
        return printable(raw.partition(b"\0")[0])
    if leaf.base == "bytes":
        return raw
    numbers = struct.unpack(f"<{leaf.count or 1}{_FORMATS[leaf.base]}", raw)
    return list(numbers) if leaf.count is not None else numbers[0]


def parse_text(leaves: list[Leaf], text: str, what: str) -> Any:
    """What a person typed for a value of these leaves: text as it is, numbers also as 0x…, arrays and structs
    as JSON. Raises ConfigError."""
    only = leaves[0] if len(leaves) == 1 else None
    if only is not None and only.base in ("char", "bytes"):
        return text
    try:
        if only is not None and only.count is None and only.base not in ("bool", "f32", "f64"):
            return int(text, 0)
        return json.loads(text)
    except ValueError:
        types = only.ctype if only is not None else "a struct: " + ", ".join(one.name for one in leaves)
        raise ConfigError(
            f"{what} can't be {text!r}",
            remedy=f"it is {types}; write arrays and structs as JSON"
            if only is None or only.count
            else f"it is {types}: write a number"
            if only.base != "bool"
            else "it is bool: write true or false",
        ) from None


def _by_leaf(leaves: list[Leaf], value: Mapping[str, Any], what: str) -> dict[str, Any]:
    given = dict(_flat(value, "", {leaf.name for leaf in leaves}))
    known = [leaf.name for leaf in leaves]
    for name in given:
        if name not in known:
            close = get_close_matches(name, known, 1)
            raise ConfigError(
                f"{what} has no member {name!r}",
                remedy=(f"did you mean {close[0]!r}? " if close else "")
                + f"its members are {', '.join(name for name in known if name) or 'none: it is no struct'}",
            )
    return given


def _flat(value: Mapping[str, Any], prefix: str, known: set[str]) -> Iterator[tuple[str, Any]]:
    for name, inner in value.items():
        full = f"{prefix}{name}"
        if isinstance(inner, Mapping) and full not in known:
            yield from _flat(inner, f"{full}.", known)
        else:
            yield full, inner


def _packed(leaf: Leaf, value: Any, what: str) -> bytes:
    if leaf.meaning is Meaning.PADDING:
        raise ConfigError(f"{what} is the kernel's own", remedy="leave it out")
    if leaf.base == "char":
        return _text(leaf, value, what)
    if leaf.base == "bytes" or isinstance(value, bytes):
        return _bytes(leaf, value, what)
    if leaf.count is None:
        return _number(leaf, value, what)
    if not isinstance(value, (list, tuple)) or len(value) != leaf.count:
        raise ConfigError(
            f"{what} is {_shown(value)}, and must be {leaf.count} numbers",
            remedy=f"its type is {leaf.ctype}: give a list of {leaf.count}",
        )
    return b"".join(_number(leaf, one, what) for one in value)


def _text(leaf: Leaf, value: Any, what: str) -> bytes:
    if not isinstance(value, (str, bytes)):
        raise ConfigError(f"{what} is {_shown(value)}, and must be text", remedy=f"its type is {leaf.ctype}")
    try:
        # What a command line holds beside UTF-8 is bytes all the same.
        raw = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value
    except UnicodeEncodeError:
        raise ConfigError(
            f"{what} is {_shown(value)}, and must be text", remedy="write it in UTF-8"
        ) from None
    if len(raw) > leaf.size:
        raise ConfigError(
            f"{what} is {len(raw)} bytes long, and has room for {leaf.size}",
            remedy=f"its type is {leaf.ctype}: shorten it, or give the C type more room",
        )
    return raw.ljust(leaf.size, b"\0")


def _bytes(leaf: Leaf, value: Any, what: str) -> bytes:
    try:
        raw = bytes.fromhex(value.removeprefix("0x")) if isinstance(value, str) else bytes(value)
    except (TypeError, ValueError):
        raw = None
    if raw is None or isinstance(value, int):
        raise ConfigError(
            f"{what} is {_shown(value)}, and must be bytes",
            remedy=f'write its {leaf.size} bytes as hexadecimal text, such as "0aff", or a list',
        )
    if len(raw) > leaf.size:
        raise ConfigError(
            f"{what} is {len(raw)} bytes long, and has room for {leaf.size}",
            remedy=f"its type is {leaf.ctype}",
        )
    return raw.ljust(leaf.size, b"\0")


def _number(leaf: Leaf, value: Any, what: str) -> bytes:
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if leaf.base in ("f32", "f64"):
        if isinstance(value, (int, float)):
            try:
                return struct.pack(f"<{_FORMATS[leaf.base]}", value)
            except OverflowError:
                whole = False
    elif whole:
        low, high = _range(leaf)
        if low <= value <= high:
            return struct.pack(f"<{_FORMATS[leaf.base]}", int(value))
        raise ConfigError(
            f"{value} does not fit {what} ({leaf.base})",
            remedy=f"give a number from {low} to {high}, or the C variable a wider type",
        )
    raise ConfigError(f"{what} is {_shown(value)}, and must be a number", remedy=f"its type is {leaf.ctype}")


def _range(leaf: Leaf) -> tuple[int, int]:
    if leaf.base == "bool":
        return 0, 1
    bits = leaf.element_size * 8
    return (-(1 << bits - 1), (1 << bits - 1) - 1) if leaf.base.startswith("s") else (0, (1 << bits) - 1)


def _types(layout: Layout) -> str:
    return ", ".join(f"{leaf.name} ({leaf.ctype})".lstrip() for leaf in layout.columns())


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"

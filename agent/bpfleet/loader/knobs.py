"""Knobs: a program's `const volatile` variables, set between opening and loading its object."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path

from bpfleet.bpf_object import read
from bpfleet.errors import LoadError
from bpfleet.layout import Leaf
from bpfleet.loader.libbpf import Object

__all__ = ["write_knobs"]


def write_knobs(opened: Object, path: Path, knobs: Mapping[str, int | bytes]) -> None:
    """Set variables of `.rodata` by name; raises LoadError naming one that is not there or does not fit."""
    if not knobs:
        return
    section = read(path).globals.get(".rodata")
    places = {leaf.name: leaf for leaf in section.leaves} if section else {}
    view = opened.map(".rodata").initial_value() if section else None
    for name, value in knobs.items():
        leaf = places.get(name)
        if leaf is None or view is None:
            close = get_close_matches(name, places, 1)
            raise LoadError(
                f"the program has no knob {name!r}",
                where=str(path),
                remedy=(f"did you mean {close[0]!r}? " if close else "")
                + f"declare it as `const volatile`; there are: {', '.join(places) or 'none'}",
            )
        raw = value if isinstance(value, bytes) else _number(value, leaf, path)
        if len(raw) > leaf.size:
            raise LoadError(
                f"{len(raw)} bytes are too many for knob {name!r} ({leaf.ctype})",
                where=str(path),
                remedy=f"set it to at most {leaf.size} bytes, or give the knob a wider type",
            )
        view[leaf.offset : leaf.offset + len(raw)] = raw


def _number(value: int, leaf: Leaf, path: Path) -> bytes:
    try:
        return value.to_bytes(leaf.size, "little", signed=value < 0)
    except OverflowError:
        raise LoadError(
            f"{value} does not fit knob {leaf.name!r} ({leaf.ctype})",
            where=str(path),
            remedy="set it to less, or give the knob a wider type",
        ) from None

"""From a compiled layout back to a declaration: `Map(…)`, and the Python source of it for a collector plugin.

The declaration made here always agrees with the object: where C's rules of alignment alone don't lead to
the compiled offsets (bitfields, unions, packed structs), it is packed, with every hole declared as padding.
Meanings can't be known from types; they are guessed from names, for the author to check.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from textwrap import indent

from bpfleet.bpf_object import BpfObject
from bpfleet.errors import ConfigError
from bpfleet.events import DRAINED
from bpfleet.layout import Layout, Leaf, declared, differences
from bpfleet.loader.counters import is_told_as_loss
from bpfleet.loader.event_types import event_types
from bpfleet.loader.seen_layouts import seen_layouts
from bpfleet.schema import Field, Map, Meaning, padding, struct

__all__ = ["map_of", "module_source", "source_of"]

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_HISTOGRAM = re.compile(r"(.*_)?(slots|hist|histogram|buckets?)\Z")
_COUNTER = re.compile(
    r"(.*_)?(count|counts|hits|misses|calls|errors|drops|dropped|packets|bytes|events|total)\Z|total_.*"
)
_UNIT = re.compile(r".*_(ns|us|ms|bytes)\Z")
_TIMESTAMP = re.compile(r"(.*_)?(ts|timestamp|last_seen)\Z")
_LARGEST_GLOBAL = 4096
"""Larger variables are a program's own tables, not telemetry."""


def map_of(name: str, key: Layout, value: Layout) -> Map | None:
    """A declaration that agrees with the compiled layouts; None where none can be written.

    A member of the value that has the name of one of the key, or a name that is no identifier, is declared as
    padding: key and value share one set of column names. A section of globals gets its variables up to 4 KiB.
    """
    if name.startswith("."):
        return _globals(name, value)
    key_leaves = _named(key.leaves, "key", set(map(_first, value.leaves)))
    taken = set(map(_first, key_leaves))
    value_leaves = _named([_guessed(leaf) for leaf in value.leaves], "value", taken)
    value_leaves = [_hidden(leaf) if _first(leaf) in taken else leaf for leaf in value_leaves]
    for packed in (False, True):
        parts = [
            (layout, _fields(leaves, layout.size, packed))
            for layout, leaves in ((key, key_leaves), (value, value_leaves))
        ]
        if all(_agrees(layout, fields, packed) for layout, fields in parts):
            return _map(name, parts[0][1], parts[1][1], packed)
    return None


def source_of(map: Map) -> str:
    """The Python source of a declaration; its names are those that `bpfleet` exports."""
    lines = ["Map(", f"    {_text(map.name)},"]
    for part, fields in (("key", map.key), ("value", map.value)):
        if not fields:
            lines.append(f"    {part}=(),")
            continue
        lines.append(f"    {part}=(")
        lines.extend(f"        {_field_source(field)}," for field in fields)
        lines.append("    ),")
    if map.packed:
        lines.append("    packed=True,")
    if map.event:
        lines.append(f"    event={_text(map.event)},")
    return "\n".join([*lines, ")"])


def module_source(made: BpfObject) -> str:
    """Python source for a collector plugin: an import and MAPS, with every map that has a key and value to
    declare.

    Left out are `.rodata`, counts that are told as losses, and maps whose types the object does not tell; a
    comment names those.
    """
    head = [
        f"# From {Path(made.path).name}. Meanings and units are guessed from names: check each, add help=."
    ]
    maps: list[Map] = []
    kinds = {name: one.type_name for name, one in made.maps.items()}
    for name in (*made.maps, *(one for one in made.globals if not one.startswith(".rodata"))):
        key, value, _ = seen_layouts(made, name)
        if name in made.globals and value is not None:
            own = (leaf for leaf in value.leaves if not is_told_as_loss(leaf.name, kinds, leaf.ctype))
            value = Layout(value.size, tuple(own))
        struct_name = ""
        events = event_types(made, name)
        if events is not None:
            guess = events.guess(name)
            key, value, struct_name = Layout(0, ()), guess.layout, guess.struct
        found = map_of(name, key, value) if key is not None and value is not None else None
        if found is not None and name in made.maps and made.maps[name].type_name in DRAINED:
            event = f"struct {struct_name}" if struct_name else ""
            found = replace(found, value=tuple(map(_told_once, found.value)), event=event)
        if found is not None and key is not None and value is not None:
            maps.append(found)
            head += [
                f"# {name}: the key has a field {one!r} too; rename the value's in C to send it."
                for one in _repeated(key, value)
            ]
        elif events is not None:
            head.append(f"# {name} ({made.maps[name].type_name}): no type of its events is known to declare.")
        elif name in made.maps:
            head.append(f"# {name} ({made.maps[name].type_name}): no types of key and value to declare.")
    if not maps:
        return "\n".join([*head, "MAPS = ()", ""])
    body = indent("".join(f"{source_of(one)},\n" for one in maps), "    ")
    names = sorted(set(re.findall(r"\b([A-Z]?[a-z]+)[(.]", re.sub(r'"[^"]*"', "", body))))
    return "\n".join([*head, f"from bpfleet import {', '.join(names)}", "", f"MAPS = (\n{body})", ""])


def _told_once(field: Field) -> Field:
    """A field of an event, which nothing is counted in."""
    growing = field.meaning in (Meaning.COUNTER, Meaning.HISTOGRAM)
    return replace(
        field,
        meaning=Meaning.GAUGE if growing else field.meaning,
        fields=tuple(map(_told_once, field.fields)),
    )


def _repeated(key: Layout, value: Layout) -> list[str]:
    """Names of the value's members, at the top level, that the key has too."""
    taken = {_first(leaf) for leaf in key.columns() if leaf.name}
    return [name for name in dict.fromkeys(_first(leaf) for leaf in value.columns()) if name in taken]


def _map(name: str, key: Sequence[Field], value: Sequence[Field], packed: bool) -> Map | None:
    try:
        return Map(name, tuple(key), tuple(value), packed=packed)
    except ConfigError:  # nothing to declare: a map without values
        return None


def _globals(name: str, section: Layout) -> Map | None:
    leaves = [
        _guessed(leaf)
        for leaf in section.columns()
        if leaf.size <= _LARGEST_GLOBAL and all(_IDENTIFIER.match(part) for part in leaf.name.split("."))
    ]
    return _map(name, (), _fields(leaves, 0, False), False)


def _named(leaves: Iterable[Leaf], name: str, taken: set[str]) -> list[Leaf]:
    while name in taken:
        name += "_"
    return [leaf if leaf.name else replace(leaf, name=name) for leaf in leaves]


def _guessed(leaf: Leaf) -> Leaf:
    if leaf.meaning is not Meaning.GAUGE:
        return leaf
    name, meaning = leaf.name.rpartition(".")[2].lower(), Meaning(leaf.meaning)
    if leaf.count is not None:
        if leaf.base in ("u32", "u64") and _HISTOGRAM.match(name):
            meaning = Meaning.HISTOGRAM
        elif leaf.base == "u8":
            meaning = Meaning.LABEL
    elif leaf.base == "u64" and _TIMESTAMP.match(name):
        meaning = Meaning.TIMESTAMP
    elif leaf.base in ("u32", "u64") and _COUNTER.match(name):
        meaning = Meaning.COUNTER
    unit = _UNIT.match(name)
    if meaning is Meaning.TIMESTAMP:
        return replace(leaf, meaning=meaning, unit="ns")
    return replace(leaf, meaning=meaning, unit=unit.group(1) if unit else "")


def _first(leaf: Leaf) -> str:
    return leaf.name.partition(".")[0]


def _hidden(leaf: Leaf) -> Leaf:
    return Leaf("pad", leaf.offset, "bytes", leaf.size, Meaning.PADDING)


def _fields(leaves: Sequence[Leaf], size: int, packed: bool) -> list[Field]:
    """Fields for `leaves`; where packed, holes and what is missing up to `size` become padding."""
    leaves = [
        leaf if all(_IDENTIFIER.match(part) for part in leaf.name.split(".")) else _hidden(leaf)
        for leaf in leaves
    ]
    fields, end = _level([(leaf.name.split("."), leaf) for leaf in leaves], 0, packed)
    if packed and size > end:
        fields.append(padding(size - end))
    return fields


def _level(named: Sequence[tuple[list[str], Leaf]], at: int, packed: bool) -> tuple[list[Field], int]:
    """Fields of one struct, whose leaves come with what is left of their names; and where it ends."""
    fields: list[Field] = []
    for (name, nested, _), group in groupby(named, key=_place):
        inside = list(group)
        first = inside[0][1]
        if packed and first.offset > at:
            fields.append(padding(first.offset - at))
            at = first.offset
        if nested:
            members, at = _level([(path[1:], leaf) for path, leaf in inside], at, packed)
            fields.append(struct(name, *members))
        else:
            fields.append(_field(name, first))
            at = first.offset + first.size
    return fields, at


def _place(named: tuple[list[str], Leaf]) -> tuple[str, bool, int]:
    """What the leaves of one nested struct share; a leaf of its own has its offset, which no other has."""
    path, leaf = named
    return path[0], len(path) > 1, -1 if len(path) > 1 else leaf.offset


def _field(name: str, leaf: Leaf) -> Field:
    if leaf.meaning is Meaning.PADDING:
        return padding(leaf.size, name)
    return Field(name, leaf.ctype, leaf.meaning, leaf.unit)


def _agrees(layout: Layout, fields: Sequence[Field], packed: bool) -> bool:
    return not differences(declared(fields, packed=packed), layout, "")


def _field_source(field: Field) -> str:
    name = _text(field.name)
    unit = f", unit={_text(field.unit)}" if field.unit else ""
    if field.fields:
        return f"struct({name}, {', '.join(_field_source(member) for member in field.fields)})"
    match field.meaning:
        case Meaning.PADDING:
            return f"padding({field.count}{'' if field.name == 'pad' else f', {name}'})"
        case Meaning.TIMESTAMP:
            return f"timestamp({name})"
        case Meaning.HISTOGRAM if field.base == "u64":
            return f"histogram({name}, {field.count})"
        case Meaning.HISTOGRAM:
            return f"Field({name}, {_text(field.ctype)}, Meaning.HISTOGRAM)"
        case _:
            return f"{field.meaning.value}({name}, {_text(field.ctype)}{unit})"


def _text(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

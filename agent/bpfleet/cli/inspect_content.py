"""What `bpfleet inspect` says of an object: as tables of text, and as plain data for JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bpfleet import elf
from bpfleet.bpf_object import BpfObject
from bpfleet.layout import Layout, Leaf
from bpfleet.packing import Value

__all__ = ["MAP_FLAGS", "Table", "summary", "tables", "to_plain"]

_IN_ORDER = """
    no_prealloc no_common_lru numa_node rdonly wronly stack_build_id zero_seed rdonly_prog wronly_prog clone
    mmapable preserve_elems inner_map link path_fd vtype_btf_obj_fd token_fd segv_on_fault no_user_conv
"""
MAP_FLAGS = _IN_ORDER.split()
"""Names of the kernel's BPF_F_… flags of maps, by bit."""
_LONGEST_VALUE = 48


@dataclass(frozen=True, slots=True)
class Table:
    """A title, the columns' heads, and rows of as many cells."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]


def summary(made: BpfObject) -> str:
    """One line: file, license, BTF, relocations."""
    facts = [f"license {made.license}" if made.license else "no license"]
    facts.append("BTF" if made.has_btf else "no BTF (compile with -g): neither maps nor variables are known")
    if made.core_relocations:
        facts.append(f"{made.core_relocations} CO-RE relocations")
    if made.kernel_version is not None:
        facts.append(f"for kernel {_version(made.kernel_version)}")
    return f"{made.path}: {', '.join(facts)}"


def tables(made: BpfObject) -> Iterator[Table]:
    """Programs, maps, their fields, global variables, sections; those that have rows."""
    found = (
        Table(
            "programs",
            ("program", "attaches to", "instructions", ""),
            [
                (
                    one.name,
                    str(one.attach),
                    str(one.instructions),
                    "" if one.attach.autoload else "not by default",
                )
                for one in made.programs
            ],
        ),
        Table(
            "maps",
            ("map", "type", "key bytes", "value bytes", "entries", "flags"),
            [
                (
                    one.name,
                    one.type_name,
                    *map(str, (one.key_size, one.value_size, one.max_entries)),
                    _flags(one.flags),
                )
                for one in made.maps.values()
            ],
        ),
        Table(
            "fields",
            ("map", "part", "offset", "type", "field"),
            [
                (name, part, str(leaf.offset), leaf.ctype, leaf.name or "-")
                for name in made.maps
                for part, layout in zip(("key", "value"), made.layouts_of(name), strict=True)
                if layout is not None
                for leaf in layout.leaves
            ],
        ),
        Table(
            "global variables",
            ("section", "offset", "type", "variable", "value", ""),
            [
                (
                    section,
                    str(leaf.offset),
                    leaf.ctype,
                    leaf.name,
                    _shown(made.initial_value(section, leaf)),
                    "knob" if _is_knob(made, section, leaf) else "",
                )
                for section, layout in made.globals.items()
                for leaf in layout.leaves
            ],
        ),
        Table("sections", ("section", "bytes"), _sections(made)),
    )
    return (table for table in found if table.rows)


def _sections(made: BpfObject) -> list[tuple[str, ...]]:
    """Those that are loaded, and BTF; debugging information and relocations in one line."""
    shown = [one for one in made.sections if one.flags & elf.SHF_ALLOC or one.name.startswith(".BTF")]
    rows = [(one.name, str(one.size)) for one in shown if one.size]
    rest = [one for one in made.sections if one not in shown]
    return [*rows, (f"{len(rest)} others", str(sum(one.size for one in rest)))]


def _is_knob(made: BpfObject, section: str, leaf: Leaf) -> bool:
    # A struct's variable is known by its first name; a static one in a function has a dot in its own.
    return section.startswith(".rodata") and any(
        leaf.name == knob or leaf.name.startswith(f"{knob}.") for knob in made.knobs
    )


def _shown(value: Value | None) -> str:
    if value is None:
        return ""
    if isinstance(value, bytes):
        text = f"{len(value)} zeros" if not any(value) else value.hex()
    elif isinstance(value, list) and not any(value):
        text = f"{len(value)} zeros"
    else:
        text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 1] + "…"


def _flags(number: int) -> str:
    known = [name for bit, name in enumerate(MAP_FLAGS) if number >> bit & 1]
    rest = number >> len(MAP_FLAGS) << len(MAP_FLAGS)
    return " ".join([*known, *([f"{rest:#x}"] if rest else [])])


def _version(code: int) -> str:
    """LINUX_VERSION_CODE as people write it."""
    return f"{code >> 16}.{code >> 8 & 0xFF}.{code & 0xFF}"


def to_plain(made: BpfObject) -> dict[str, Any]:
    """An object as numbers, text, lists and maps, for JSON."""
    return {
        "file": made.path,
        "license": made.license,
        "btf": made.has_btf,
        "core_relocations": made.core_relocations,
        "kernel_version": None if made.kernel_version is None else _version(made.kernel_version),
        "programs": [
            {
                "program": one.name,
                "section": one.section,
                "instructions": one.instructions,
                "kind": one.attach.kind,
                "target": one.attach.target,
                "symbol": one.attach.symbol,
                "offset": one.attach.offset,
                "sleepable": one.attach.sleepable,
                "autoload": one.attach.autoload,
            }
            for one in made.programs
        ],
        "maps": [
            {
                "map": one.name,
                "type": one.type_name,
                "key_size": one.key_size,
                "value_size": one.value_size,
                "max_entries": one.max_entries,
                "flags": one.flags,
                "pinned": one.pinned,
                "key": _plain_layout(made.layouts_of(one.name)[0]),
                "value": _plain_layout(made.layouts_of(one.name)[1]),
            }
            for one in made.maps.values()
        ],
        "globals": [
            {"section": section, "size": layout.size}
            | {
                "variables": [
                    _plain_leaf(leaf)
                    | {"knob": _is_knob(made, section, leaf)}
                    | {"value": _plain_value(made.initial_value(section, leaf))}
                    for leaf in layout.leaves
                ]
            }
            for section, layout in made.globals.items()
        ],
        "sections": [
            {
                "section": one.name,
                "type": one.type,
                "flags": one.flags,
                "offset": one.offset,
                "size": one.size,
            }
            for one in made.sections[1:]
        ],
    }


def _plain_layout(layout: Layout | None) -> list[dict[str, Any]] | None:
    return None if layout is None else [_plain_leaf(leaf) for leaf in layout.leaves]


def _plain_leaf(leaf: Leaf) -> dict[str, Any]:
    return {"field": leaf.name, "offset": leaf.offset, "type": leaf.ctype, "meaning": leaf.meaning.value}


def _plain_value(value: Value | None) -> Any:
    """Bytes in hexadecimal; what JSON has no number for, in words."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, list):
        return [_plain_value(one) for one in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value

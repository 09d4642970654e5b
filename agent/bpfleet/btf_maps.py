"""Map definitions of libbpf's dialect, as the types of a `.maps` section tell them.

The macros of libbpf's `bpf_helpers.h` hide numbers in types: `__uint(name, N)` is a pointer to an array of
N ints, `__type(name, T)` a pointer to T, `__array(name, T)` an array of pointers to T, `__ulong(name, N)`
an enum with the value N.
"""

from __future__ import annotations

from dataclasses import dataclass

from bpfleet.btf_types import Kind, Type, Types

__all__ = ["MAP_TYPES", "MapDef", "map_definitions"]

_IN_ORDER = """
    unspec hash array prog_array perf_event_array percpu_hash percpu_array stack_trace cgroup_array lru_hash
    lru_percpu_hash lpm_trie array_of_maps hash_of_maps devmap sockmap cpumap xskmap sockhash cgroup_storage
    reuseport_sockarray percpu_cgroup_storage queue stack sk_storage devmap_hash struct_ops ringbuf
    inode_storage task_storage bloom_filter user_ringbuf cgrp_storage arena insn_array
"""
MAP_TYPES = tuple(_IN_ORDER.split())
"""Names of the kernel's `enum bpf_map_type` by number, as bpftool prints them."""

_MAX_MAPS = 1024
_MAX_ATTRIBUTES = 64
"""More than any object has: a damaged one must not keep us busy."""
_REMEDY = "define it with __uint(type, …), __type(key, …) and so on, as libbpf's bpf_helpers.h has them"
_PIN_BY_NAME = 1
_ID_SIZE = 4
"""Bytes of a value where values are maps or programs."""


@dataclass(frozen=True, slots=True)
class MapDef:
    """A map as its source defines it.

    `type` is the kernel's `enum bpf_map_type`; sizes are bytes; `key_type` and `value_type` are BTF type
    ids, None where only sizes are given. `flags` are BPF_F_…; `pinned` is pinning by name; `inner` defines
    the maps inside a map of maps.
    """

    name: str
    type: int
    type_name: str
    key_type: int | None
    value_type: int | None
    key_size: int
    value_size: int
    max_entries: int
    flags: int
    pinned: bool = False
    extra: int = 0
    inner: MapDef | None = None


def map_definitions(types: Types) -> tuple[MapDef, ...]:
    """Every map of the `.maps` section, in its order. Raises ObjectError for malformed definitions."""
    section = types.find(".maps", Kind.DATASEC)
    if section is None:
        return ()
    if section.length > _MAX_MAPS:
        raise types.error(f"it defines more than {_MAX_MAPS} maps", "section .maps", _REMEDY)
    found = []
    for variable in types.variables(section):
        name = types.type(variable.type).name
        found.append(_definition(types, name, types.resolve(types.type(variable.type).ref)))
    return tuple(found)


def _definition(types: Types, name: str, struct: Type, *, inner: bool = False) -> MapDef:
    place = f"map {name!r}"
    if struct.kind is not Kind.STRUCT:
        raise types.error(f"it is defined by {struct}, not by a struct", place, _REMEDY)
    if struct.length > _MAX_ATTRIBUTES:
        raise types.error(f"it has more than {_MAX_ATTRIBUTES} attributes", place, _REMEDY)
    numbers: dict[str, int] = {}
    of_type: dict[str, int] = {}
    made: MapDef | None = None
    for member in types.members(struct):
        kind = types.resolve(member.type)
        if member.name == "values":
            numbers.setdefault("value_size", _ID_SIZE)
            element = _element(types, kind, place)
            if element.kind is Kind.STRUCT and not inner:
                made = _definition(types, f"{name}.inner", element, inner=True)
        elif member.name in ("key", "value"):
            of_type[member.name] = _pointee(types, kind, place, member.name)
        else:
            numbers[member.name] = _number(types, kind, place, member.name)
    for part, type_id in of_type.items():
        numbers[f"{part}_size"] = types.size_of(type_id)
    kind_number = numbers.get("type", 0)
    known = kind_number < len(MAP_TYPES)
    return MapDef(
        name,
        kind_number,
        MAP_TYPES[kind_number] if known else f"type {kind_number}",
        of_type.get("key"),
        of_type.get("value"),
        numbers.get("key_size", 0),
        numbers.get("value_size", 0),
        numbers.get("max_entries", 0),
        numbers.get("map_flags", 0),
        numbers.get("pinning", 0) == _PIN_BY_NAME,
        numbers.get("map_extra", 0),
        made,
    )


def _pointee(types: Types, type: Type, place: str, name: str) -> int:
    if type.kind is not Kind.PTR:
        raise types.error(f"its {name} is {type}, not a pointer", place, _REMEDY)
    return type.ref


def _number(types: Types, type: Type, place: str, name: str) -> int:
    if type.kind in (Kind.ENUM, Kind.ENUM64):
        return next((one.value for one in types.enumerators(type)), 0)
    behind = types.resolve(_pointee(types, type, place, name))
    if behind.kind is not Kind.ARRAY:
        raise types.error(f"its {name} is a pointer to {behind}, not to an array", place, _REMEDY)
    return types.array(behind)[1]


def _element(types: Types, type: Type, place: str) -> Type:
    if type.kind is not Kind.ARRAY:
        raise types.error(f"its values are {type}, not an array", place, _REMEDY)
    return types.resolve(_pointee(types, types.resolve(types.array(type)[0]), place, "values"))

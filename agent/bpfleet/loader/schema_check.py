"""The declared schema against what the compiler made, before anything is attached."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches

from bpfleet.errors import SchemaMismatch
from bpfleet.events import DRAINED, our_columns
from bpfleet.layout import Layout, Leaf, declared, differences, sized, table
from bpfleet.loader.backend import CompiledMap
from bpfleet.loader.counters import is_told_as_loss
from bpfleet.loader.event_layouts import declared_events, drained_layouts, refuse_growing
from bpfleet.schema import FieldWords, Fold, Map, MapWords, Meaning

__all__ = ["check_schema", "derived_maps"]


def check_schema(
    collector: str, maps: Sequence[Map], compiled: Mapping[str, CompiledMap]
) -> dict[str, tuple[Layout, Layout]]:
    """Key and value layout of each declared map; raises SchemaMismatch naming collector, map, field
    and fix."""
    return {spec.name: _check(collector, spec, compiled) for spec in maps}


def derived_maps(
    collector: str, compiled: Mapping[str, CompiledMap], words: Mapping[str, MapWords]
) -> dict[str, tuple[Layout, Layout]]:
    """Layouts of every map, for a collector that declares none: by its types, else by its sizes.

    Numbers of CPUs are summed where nothing else is said. Raises SchemaMismatch where `words` speak of a map
    or field that is not there.
    """
    found = {}
    kinds = {name: one.kind for name, one in compiled.items()}
    for name, one in compiled.items():
        if is_told_as_loss(name, kinds) or name.startswith((".rodata", ".kconfig")):
            continue
        said = words.get(name) or MapWords()
        if one.own and name not in words:
            continue
        if one.events is not None:
            found[name] = drained_layouts(f"{collector}, map {name!r}", one, said)
            continue
        key = one.key or sized(one.sizes[0])
        value = one.value or sized(one.sizes[1])
        read = (leaf for leaf in value.leaves if not _is_not_read(name, leaf, kinds))
        leaves = tuple(map(_summed, read))
        if leaves and one.kind in DRAINED:
            found[name] = our_columns(one.kind, raw=False), Layout(value.size, leaves)
        elif leaves and (key.size or one.key is not None):
            found[name] = key, Layout(value.size, leaves)
    for name, said in words.items():
        if name not in compiled:
            raise _nothing_of(collector, "map", name, compiled)
        if not said.read:
            found.pop(name, None)
        elif name in found:
            found[name] = _told(f"{collector}, map {name!r}", *found[name], said)
            if compiled[name].kind in DRAINED:
                refuse_growing(f"words for collector {collector}, map {name!r}", name, found[name][1].leaves)
    return found


def _is_not_read(section: str, leaf: Leaf, kinds: Mapping[str, str]) -> bool:
    """Some counts are told as losses; a global called `unused` only keeps a type in the object."""
    if not section.startswith("."):
        return False
    return is_told_as_loss(leaf.name, kinds, leaf.ctype) or leaf.name.startswith("unused")


def _summed(leaf: Leaf) -> Leaf:
    number = leaf.meaning is Meaning.GAUGE and leaf.base[0] in "us"
    return replace(leaf, fold=Fold.SUM) if number else leaf


def _told(where: str, key: Layout, value: Layout, words: MapWords) -> tuple[Layout, Layout]:
    names = [leaf.name or part for part, side in (("key", key), ("value", value)) for leaf in side.leaves]
    for name in words.fields:
        if name not in names:
            raise _nothing_of(where, "field", name, names)

    def told(part: str, layout: Layout) -> Layout:
        leaves = (_worded(leaf, words.fields.get(leaf.name or part)) for leaf in layout.leaves)
        return Layout(layout.size, tuple(leaves))

    return told("key", key), told("value", value)


def _worded(leaf: Leaf, words: FieldWords | None) -> Leaf:
    if words is None:
        return leaf
    return replace(
        leaf,
        name=words.name or leaf.name,
        meaning=words.meaning or leaf.meaning,
        unit=words.unit,
        help=words.help,
        fold=words.fold or leaf.fold,
        stack=words.stack,
        process=words.process,
        decode=words.decode,
    )


def _nothing_of(where: str, what: str, name: str, known: Iterable[str]) -> SchemaMismatch:
    close = get_close_matches(name, list(known), 1)
    return SchemaMismatch(
        f"there is no {what} {name!r} in the object",
        where=f"words for collector {where}",
        remedy=(f"did you mean {close[0]!r}? " if close else "") + f"there are: {', '.join(known) or 'none'}",
    )


def _check(collector: str, spec: Map, compiled: Mapping[str, CompiledMap]) -> tuple[Layout, Layout]:
    where = f"collector {collector!r}, map {spec.name!r}"
    made = compiled.get(spec.name)
    if made is None:
        raise SchemaMismatch(
            f"map {spec.name!r} is declared and not in the program",
            where=where,
            remedy=f"the program's maps are: {', '.join(sorted(compiled)) or 'none'}",
        )
    if made.kind in DRAINED:
        refuse_growing(where, spec.name, spec.value)
    if made.events is not None:
        return declared_events(where, spec, made)
    if made.key is None or made.value is None:
        raise SchemaMismatch(
            f"the object does not tell the types of map {spec.name!r}, so its schema can't be checked",
            where=where,
            remedy="libbpf's dialect: define it with __type(key, …) and __type(value, …), compile with -g; "
            "bcc's: no bit-fields, no arrays of two dimensions (docs/bcc.md)",
        )
    key, value = declared(spec.key, packed=spec.packed), declared(spec.value, packed=spec.packed)
    if spec.is_globals:
        return key, _globals(where, value, made.value)
    found = differences(key, made.key, "key") + differences(value, made.value, "value")
    if found:
        raise SchemaMismatch(
            f"map {spec.name!r} is not what its schema declares: " + "; ".join(found),
            where=where,
            log=_both("key", key, made.key) + _both("value", value, made.value),
            remedy="change the schema or the C struct, so that both say the same",
        )
    return (our_columns(made.kind, raw=False), value) if made.kind in DRAINED else (key, value)


def _globals(where: str, wanted: Layout, section: Layout) -> Layout:
    """The wanted variables at the places that the compiler gave them."""
    there = {leaf.name: leaf for leaf in section.leaves}
    placed: list[Leaf] = []
    for leaf in wanted.leaves:
        other = there.get(leaf.name)
        if other is None or other.ctype != leaf.ctype:
            raise SchemaMismatch(
                f"global variable {leaf.name!r}: declared {leaf.ctype}, "
                + (f"compiled {other.ctype}" if other else "not in the object"),
                where=where,
                remedy=f"the section's variables are: {', '.join(there) or 'none'}",
            )
        placed.append(replace(leaf, offset=other.offset))
    return Layout(section.size, tuple(placed))


def _both(part: str, want: Layout, got: Layout) -> str:
    if want.size == got.size and not differences(want, got, part):
        return ""
    return f"{part} declared:\n{table(want)}\n{part} compiled:\n{table(got)}\n"

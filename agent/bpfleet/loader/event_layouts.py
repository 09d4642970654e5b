"""Layouts of events: as a schema declares them, as words say, or as the object lets guess."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bpfleet.errors import SchemaMismatch
from bpfleet.events import our_columns, raw_event
from bpfleet.layout import Layout, Leaf, declared, differences, table
from bpfleet.loader.backend import CompiledMap
from bpfleet.loader.event_types import RAW_BYTES, EventTypes, UnknownType
from bpfleet.schema import Field, Map, MapWords, Meaning

__all__ = ["declared_events", "drained_layouts", "refuse_growing"]

_GROWING = (Meaning.COUNTER, Meaning.HISTOGRAM, Meaning.EVENT)


def declared_events(where: str, spec: Map, made: CompiledMap) -> tuple[Layout, Layout]:
    """Our columns and the event's, as `spec` declares them; compared where it names a struct. Raises
    SchemaMismatch."""
    assert made.events is not None
    if spec.key:
        raise SchemaMismatch(
            f"map {spec.name!r} is declared with a key, and a {made.kind} has none",
            where=where,
            remedy="declare key=() and the event's fields as the value",
        )
    value = declared(spec.value, packed=spec.packed)
    compiled = _named(where, made.events, spec.event) if spec.event else made.events.known
    if compiled is not None:
        found = differences(value, compiled, "event")
        if found:
            raise SchemaMismatch(
                f"map {spec.name!r} is not what its schema declares: " + "; ".join(found),
                where=where,
                log=f"event declared:\n{table(value)}\nevent compiled:\n{table(compiled)}\n",
                remedy="change the schema or the C struct, so that both say the same",
            )
    return our_columns(made.kind, raw=False), value


def drained_layouts(where: str, made: CompiledMap, words: MapWords) -> tuple[Layout, Layout]:
    """Our columns and the event's, of a map whose schema is derived: by `words`, else by the object's
    habits."""
    assert made.events is not None
    event = _named(where, made.events, words.event) if words.event else made.events.guess(made.name).layout
    if event is None:
        return our_columns(made.kind, raw=True), raw_event(words.size or RAW_BYTES)
    return our_columns(made.kind, raw=False), _cut(event, words.size) if words.size else event


def refuse_growing(where: str, name: str, fields: Sequence[Field | Leaf]) -> None:
    """Raises SchemaMismatch where a field of an event is declared to grow: each event is sent once."""
    for field in fields:
        if field.meaning in _GROWING:
            raise SchemaMismatch(
                f"field {field.name!r} of map {name!r} is declared as a {field.meaning.value}, "
                "and its rows are events, each sent once",
                where=where,
                remedy="declare it as a gauge, a label or a timestamp",
            )


def _named(where: str, events: EventTypes, said: str) -> Layout:
    try:
        return events.named(said)
    except UnknownType:
        raise SchemaMismatch(
            f"the object has no type {said!r}",
            where=where,
            remedy="clang leaves out types that no map, global or function's argument has: add "
            f"`const {said} *unused __attribute__((unused));` to the source",
        ) from None


def _cut(event: Layout, size: int) -> Layout:
    """The first `size` bytes of an event: fields beyond it are left out, text and bytes that reach over it
    cut."""

    def shorter(leaf: Leaf) -> Leaf | None:
        room = size - leaf.offset
        if leaf.size <= room:
            return leaf
        whole = room // leaf.element_size
        return replace(leaf, count=whole) if leaf.count is not None and whole > 0 else None

    leaves = tuple(cut for leaf in event.leaves if (cut := shorter(leaf)) is not None)
    return Layout(min(size, event.size), leaves)

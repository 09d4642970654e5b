"""What the events of a ring buffer or perf event array look like. No object says; there are words, and
habits.

In this order: what the schema or the words say; what the source was seen to submit; the struct that is
called as the map; the struct that a global variable points to, where it is the only one (`const struct event
*unused`, for Go's bpf2go); for the only such map of an object one of the structs `event`, `event_t` and
`data_t`, or the only one that ends in `event` among those that programs have in variables; and else bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from bpfleet.bpf_object import BpfObject
from bpfleet.events import RINGS
from bpfleet.layout import Layout
from bpfleet.loader.submitted import KEPT

__all__ = ["RAW_BYTES", "EventTypes", "Guess", "UnknownType", "event_types"]

RAW_BYTES = 128
"""Bytes kept of an event of which nothing is known, where nothing is said."""

_USUAL = ("event", "event_t", "data_t")
_ENDINGS = ("event", "event_t")


class UnknownType(Exception):
    """Raised for a type that the object does not have."""


@dataclass(frozen=True, slots=True)
class Guess:
    """A layout, the struct that it is of ("" for one without a name), and in words how it was found."""

    layout: Layout | None
    struct: str
    how: str


@dataclass(frozen=True)
class EventTypes:
    """What an object tells of the events of one of its maps.

    `find` gives the layout of a struct by its name, `pointed` the structs that global variables point to, by
    the variables' names, `local` structs that programs have in variables, `alone` says that no other map of
    the object has events. `known`: the compiler itself says (bcc).
    """

    find: Callable[[str], Layout | None]
    pointed: Mapping[str, str] = field(default_factory=dict)
    alone: bool = False
    known: Layout | None = None
    local: Sequence[str] = ()

    def named(self, said: str) -> Layout:
        """The layout of `struct event`, or `event`; raises UnknownType."""
        layout = self.find(said.removeprefix("struct ").strip())
        if layout is None:
            raise UnknownType(said)
        return layout

    def guess(self, map_name: str) -> Guess:
        """The layout of events of which nothing is said, and where it is from."""
        if self.known is not None:
            return Guess(self.known, "", "what the program submits")
        submitted = self._only([one for name, one in self.pointed.items() if name == KEPT + map_name])
        if submitted is not None:
            return Guess(*submitted, f"struct {submitted[1]}, which the source submits")
        by_name = self._only([map_name, f"{map_name}_t", map_name.removesuffix("s")])
        if by_name is not None:
            return Guess(*by_name, f"struct {by_name[1]}, by its name")
        pointed = self._only([one for name, one in self.pointed.items() if not name.startswith(KEPT)])
        if pointed is not None:
            return Guess(*pointed, f"struct {pointed[1]}, to which a global variable points")
        usual = self._only(_USUAL) if self.alone else None
        if usual is not None:
            return Guess(*usual, f"struct {usual[1]}, by its name")
        local = self._only([one for one in self.local if one.endswith(_ENDINGS)]) if self.alone else None
        if local is not None:
            return Guess(*local, f"struct {local[1]}, which the programs have in variables")
        return Guess(None, "", "not known: say `event` (docs/draining.md)")

    def _only(self, names: Sequence[str]) -> tuple[Layout, str] | None:
        """The layout that these names have, with one of them, where they have but one."""
        found = {layout: name for name in names if (layout := self.find(name)) is not None}
        return next(iter(found.items())) if len(found) == 1 else None


def event_types(made: BpfObject, map_name: str) -> EventTypes | None:
    """What an object tells of the events of a map; None where the map has a type of its own, or no events."""
    rings = [one.name for one in made.maps.values() if one.type_name in RINGS]
    if map_name not in rings:
        return None
    return EventTypes(
        made.struct_layout, made.pointed_structs(), alone=len(rings) == 1, local=made.local_structs()
    )

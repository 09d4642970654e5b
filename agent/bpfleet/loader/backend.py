"""What both program kinds do for the loader; `core` and `bcc` each have one implementation.

The loader's order is the same for both: load (nothing is attached yet) → compare the maps with the
schema → make the snapshot programs → attach → hand over the fds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from bpfleet.layout import Layout
from bpfleet.loader.event_types import EventTypes
from bpfleet.protocol import LoadedLadder
from bpfleet.spec import Attach

__all__ = ["AttachedProgram", "Backend", "CompiledMap"]


@dataclass(frozen=True, slots=True)
class CompiledMap:
    """A map that is in the kernel, as the compiler described it.

    `key` and `value` are None where the compiler left no type behind (then the map has sizes only).
    For a section of global variables `name` is the section (`.bss`), `key` is empty and `value` has
    one leaf per variable."""

    name: str
    fd: int
    key: Layout | None
    value: Layout | None
    sizes: tuple[int, int] = (0, 0)
    """Bytes of a key and of a value, where no layout tells."""
    inner: tuple[int, int] | None = None
    """Of a map of maps, whose `key` is the outer key and the inner one and whose `value` is the inner maps':
    where in it the inner key begins, and that one's size."""
    kind: str = ""
    """Such as `hash`; empty where the compiler does not say (a section of variables)."""
    events: EventTypes | None = None
    """Of a map that holds records without a type: what the object tells of them."""
    own: bool = False
    """Whether the program seems to keep a map for itself: a queue that it takes from too, a perf event array
    that nothing is sent to, since counters are read through it, or a map that user space may not read."""


@dataclass(frozen=True, slots=True)
class AttachedProgram:
    """A program that is in the kernel; `attached` says where (`tp_btf/sched_switch`), "" where it
    is only run on demand.

    `links` are the fds that keep it attached (BPF links or perf events).
    """

    name: str
    fd: int
    attached: str
    links: tuple[int, ...]
    error: str = ""
    """Why it is attached nowhere, where it should be."""
    iterates: bool = False
    """Whether attaching it only makes it ready: it runs when its link is read."""


class Backend(Protocol):
    """A collector's program, not attached yet."""

    @property
    def knobs(self) -> frozenset[str]:
        """Names of its `const volatile` variables."""

    def load(self) -> None:
        """Bring the programs into the kernel; raises VerifierError with the log's telling lines."""

    def maps(self) -> Sequence[CompiledMap]:
        """Every map of the program."""

    def attach(self, wanted: Sequence[Attach]) -> Sequence[AttachedProgram]:
        """Attach as `wanted` says, else as the source itself says; raises AttachError naming the
        program and the place."""

    def ladders(self) -> Sequence[LoadedLadder]:
        """Once loaded: which rung of each ladder was taken."""

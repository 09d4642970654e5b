"""What worker, supervisor and loader say to each other: plain data, with fds beside it.

    worker → supervisor   Load …, Seal, Grow …, OpenInner …, Changed …
    supervisor → loader   Load or Grow (+ the map's fd)
    loader → supervisor   Loaded or Failed (+ fds)        supervisor → worker   the same

Fds are named by their index in the list that travels with the message (`bpfleet.ipc`).
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from bpfleet.layout import Layout
from bpfleet.schema import Map, MapWords
from bpfleet.sys_files import LoadedFile, SysFiles

__all__ = [
    "Change",
    "Changed",
    "Failed",
    "Grow",
    "Load",
    "Loaded",
    "LoadedControl",
    "LoadedLadder",
    "LoadedMap",
    "LoadedProgram",
    "LoadedStacks",
    "LoadedSymbols",
    "OpenInner",
    "Place",
    "Rescan",
    "Rescanned",
    "Seal",
    "plain",
    "typed",
]

Place = tuple[str, str, str, str, int, int, bool, int]
"""The fields of `bpfleet.spec.Attach`; without a kind, where the attach list or the section says."""


class Message(msgspec.Struct, kw_only=True, tag_field="op"):
    """Base of every message; `op` is the class's name."""


class Load(Message, kw_only=True, tag="load"):
    """Bring one collector into the kernel."""

    collector: str
    kind: str
    source: str
    maps: tuple[Map, ...] = ()
    words: dict[str, MapWords] = msgspec.field(default_factory=dict)
    attach: tuple[Place, ...] = ()
    ladders: dict[str, tuple[tuple[Place, ...], ...]] = msgspec.field(default_factory=dict)
    """For each ladder its rungs, best first; a rung is one program or several."""
    attach_all: bool = True
    """False: a program that can't be attached does not cost the others."""
    knobs: dict[str, Any] = msgspec.field(default_factory=dict)
    data: dict[str, Any] = msgspec.field(default_factory=dict)
    """Values of variables that may change while the program runs."""
    entries: dict[str, tuple[tuple[Any, Any], ...]] = msgspec.field(default_factory=dict)
    """Keys and values that maps hold before anything is attached; a value None is all zeros."""
    cflags: tuple[str, ...] = ()
    before_snapshot: str | None = None
    files: tuple[SysFiles, ...] = ()
    row_buffer: int = 64 << 20
    """The most bytes that one map's row buffer may take."""
    methods: tuple[str, ...] = ("mmap", "walk", "batch", "key")
    perf_buffer: int = 256 << 10
    """Bytes of each CPU's ring of a perf event array."""
    timeout: float = 30.0
    """Seconds that the loader may take."""
    rescan: float = 60.0
    """Seconds between two looks for new copies of libraries."""
    attach_programs: bool = True
    """False: only try whether it loads."""


class Grow(Message, kw_only=True, tag="grow"):
    """Make a new row buffer (and the snapshot program bound to it) for a map already loaded."""

    collector: str
    map: str
    rows: int
    """Rows that the new buffer has room for."""


class Rescan(Message, kw_only=True, tag="rescan"):
    """Attach a collector's programs where there is something new: copies of libraries, CPUs."""

    collector: str
    request: Load
    programs: dict[str, int]
    known: tuple[str, ...]
    """What they are attached to already."""


class Rescanned(Message, kw_only=True, tag="rescanned"):
    """What a rescan found."""

    collector: str
    present: tuple[str, ...]
    """All that there is now; of what is known and not among it, the fds can be closed."""
    new: dict[str, tuple[int, ...]]
    """The fds that keep programs attached to what was new."""
    attached: dict[str, str]
    """Where each program is attached now, beside the first place."""
    errors: tuple[str, ...]


class OpenInner(Message, kw_only=True, tag="inner"):
    """Open maps that a map of maps holds, by their ids."""

    collector: str
    map: str
    ids: tuple[int, ...]


class Seal(Message, kw_only=True, tag="seal"):
    """The worker has what it needs; `collectors` are the ones it uses."""

    collectors: tuple[str, ...]


class Changed(Message, kw_only=True, tag="changed"):
    """All that is changed of a collector now; the supervisor keeps it for the next worker."""

    collector: str
    changes: tuple[Change, ...]


class LoadedMap(msgspec.Struct, kw_only=True):
    """One map in the kernel, and how it can be read."""

    name: str
    help: str
    type: int
    """The kernel's `enum bpf_map_type`."""
    key_size: int
    value_size: int
    max_entries: int
    flags: int
    key: Layout
    value: Layout
    fd: int
    walk_fd: int | None = None
    """The snapshot program, loaded for this map."""
    rows_fd: int | None = None
    """Its mmapable row buffer."""
    state_fd: int | None = None
    """Its mmapable counters (rows written, rows seen)."""
    rows_capacity: int = 0
    walk_refused: str = ""
    """Why there is no snapshot program, where there is none."""
    iterator_fd: int | None = None
    """Of local storage: the link of the iterator that goes through it."""
    inner: tuple[int, int] | None = None
    """Of a map of maps: where in the key the inner key begins, and that one's size; `value` is theirs."""
    failed_inserts: tuple[int, int] | None = None
    """The count of inserts that the kernel refused: an array's fd, bytes into the array's first element."""
    new_keys: tuple[int, int] | None = None
    """Of an LRU map: the count of keys that were put in and had not been there."""
    book_fd: int | None = None
    """Of a drained map: the array where the worker keeps count (`bpfleet.draining.book`)."""
    perf_fds: tuple[int, ...] = ()
    """Of a perf event array: the events of the CPUs `perf_cpus`, each with a ring of `perf_bytes` bytes."""
    perf_cpus: tuple[int, ...] = ()
    perf_bytes: int = 0
    perf_counts: bool = False
    """Whether the kernel tells how many events a ring had no room for."""
    event_type: str = ""
    """How the layout of the events was found, in words."""


class LoadedStacks(msgspec.Struct, kw_only=True):
    """One map of stacks that fields of other maps name."""

    name: str
    fd: int
    failed_inserts: tuple[int, int] | None = None
    """As in `LoadedMap`: stacks that could not be kept."""


class LoadedSymbols(msgspec.Struct, kw_only=True):
    """Fds to learn names of functions by; None where there is none, and `refused` says why."""

    kernel_fd: int | None
    """Of /proc/kallsyms."""
    mappings_fd: int | None
    """Link of the iterator over the executable mappings of processes …"""
    wanted_fd: int | None
    """… that this map has."""
    refused: str


class LoadedProgram(msgspec.Struct, kw_only=True):
    """One program in the kernel and where it is attached ("" for one that is only run)."""

    name: str
    fd: int
    attached: str = ""
    error: str = ""
    """Why it is not attached, where it should be."""


class LoadedControl(msgspec.Struct, kw_only=True):
    """What user space may look at, and mostly change, while the program runs: a section of variables, or a
    map that the collector calls a control map."""

    name: str
    """The map's, or the section's (`.data`)."""
    key: Layout
    """Empty for a section of variables."""
    value: Layout
    fd: int


class Change(msgspec.Struct, kw_only=True, frozen=True):
    """One variable or entry that `bpfleet set` has changed, with what it takes to undo it."""

    name: str
    """Such as `threshold` or `weights[64]`."""
    value: str
    """What it is now, as JSON; empty for an entry that was deleted."""
    at: int
    """Wall clock, ns."""
    uid: int
    """Who asked."""
    place: str
    """The section's or map's name."""
    offset: int
    """Bytes into the section."""
    key: bytes
    """Empty for a variable."""
    before: bytes | None
    """What was there before the first change; None: no entry."""


class LoadedLadder(msgspec.Struct, kw_only=True):
    """Which of a collector's alternatives was taken."""

    name: str
    taken: str
    """Where its programs are attached, such as `fentry/do_exit`; "" where no rung could be had."""
    rung: int
    """Counted from 1; 0 where none."""
    rungs: int
    refused: tuple[str, ...]
    """Why each better rung was not taken, in order."""


class Loaded(Message, kw_only=True, tag="loaded"):
    """A collector is in the kernel and attached."""

    collector: str
    maps: tuple[LoadedMap, ...]
    programs: tuple[LoadedProgram, ...]
    links: tuple[int, ...]
    before_snapshot_fd: int | None = None
    iterators: tuple[int, ...] = ()
    """Links of `SEC("iter/…")` programs, which are run before each snapshot."""
    controls: tuple[LoadedControl, ...] = ()
    files: tuple[LoadedFile, ...] = ()
    places: tuple[Place, ...] = ()
    """Of the attach list and of the rungs taken: where a rescan looks for more."""
    known: tuple[str, ...] = ()
    """What a rescan need not attach to again."""
    changes: tuple[Change, ...] = ()
    """What was changed by earlier workers; filled in by the supervisor."""
    ladders: tuple[LoadedLadder, ...] = ()
    stacks: tuple[LoadedStacks, ...] = ()
    symbols: LoadedSymbols | None = None
    generation: int = 0
    """CLOCK_BOOTTIME ns when it was loaded; filled in by the supervisor."""


class Failed(Message, kw_only=True, tag="failed"):
    """A request could not be done; `error` is `BpfleetError.to_plain`."""

    collector: str
    error: dict[str, str]


M = TypeVar("M")


def plain(message: Message | LoadedMap) -> dict[str, Any]:
    """The message as maps, lists, numbers and text."""
    return dict(msgspec.to_builtins(message, builtin_types=(bytes,)))


def typed(data: dict[str, Any], kind: type[M]) -> M:
    """The message that `data` says; raises msgspec.ValidationError where it says none."""
    return msgspec.convert(data, kind, builtin_types=(bytes,))

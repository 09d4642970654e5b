"""What a plugin offers, as plain data: a collector's spec and a sink's type.

A spec needs no kernel. What has been brought into the kernel is `bpfleet.protocol.Loaded`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from bpfleet.errors import BpfleetError, ConfigError
from bpfleet.schema import Field, Map, MapWords, Meaning
from bpfleet.settings import CollectorSettings, SinkSettings
from bpfleet.sys_files import SysFiles

if TYPE_CHECKING:
    # Only for type checkers: a loader, which needs specs, stays small without numpy.
    from bpfleet.wire import Frame

__all__ = [
    "Attach",
    "Collector",
    "Decoder",
    "Program",
    "Rung",
    "Sink",
    "SinkContext",
    "SinkType",
    "SysFiles",
    "bcc",
    "core",
]

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}\Z")


@dataclass(frozen=True, slots=True)
class Program:
    """A collector's source and the dialect it is written in (`core` or `bcc`)."""

    kind: str
    source: Path
    cflags: tuple[str, ...] = ()


def core(source: Path) -> Program:
    """A program in libbpf's dialect: a `.bpf.c`, compiled ahead of time, or a `.bpf.o`."""
    return Program("core", source)


def bcc(source: Path, *, cflags: Sequence[str] = ()) -> Program:
    """A program in BCC's dialect, compiled on the host by bcc."""
    return Program("bcc", source, tuple(cflags))


@dataclass(frozen=True, slots=True)
class Attach:
    """Where one program of the object is attached.

    | kind | `target` | `symbol` |
    | --- | --- | --- |
    | tracepoint | `group:name` | |
    | raw_tp, tp_btf | the tracepoint's name | |
    | kprobe, kretprobe | a kernel function, `+offset` | |
    | kprobe.multi, kretprobe.multi | a glob of kernel functions | |
    | fentry, fexit, fmod_ret, lsm | a kernel function | |
    | ksyscall, kretsyscall | a system call | |
    | uprobe, uretprobe, uprobe.returns | a library (`c`, as in libc), program or path | a function or glob |
    | uprobe.body | a Go program | a function or glob |
    | usdt | the same | `provider:name` |
    | perf_event | `cpu-clock`, `cpu-cycles`, … | |
    | xdp, tcx/ingress, tcx/egress | an interface | |
    | socket | an interface; all where empty | |
    | cgroup | a cgroup's directory | |
    """

    program: str
    kind: str
    target: str
    symbol: str = ""
    frequency: int = 0
    """Samples a second of a perf_event; 99 where 0."""
    pid: int = 0
    """Of uprobes and USDT: only this process, and the library is the one that it uses; 0: every process."""
    everywhere: bool = False
    """Of uprobes: also in other copies of the library that processes use, as they are found."""
    period: int = 0
    """Of a perf_event, instead of a frequency: once for every so many events; 1: for each."""

    def __str__(self) -> str:
        return f"{self.kind}/{self.target}" + (f":{self.symbol}" if self.symbol else "")


Entries = Mapping[Any, Any] | Iterable[tuple[Any, Any]]
"""Keys and values of a map: numbers, text, bytes; lists for arrays, mappings for structs."""

Rung = str | Attach | Sequence[str | Attach]
"""One of a ladder's alternatives: a program by its name, a program in a place of its own, or several that are
wanted together."""

Ladders = Mapping[str, Sequence[Rung]]
"""Purpose → its alternatives, best first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Collector:
    """A named unit of telemetry: one program, the schema of its maps, its defaults.

    Without `maps` the schema is derived from the object's types; `words` says of such maps what types can't:
    meanings, units, help. Without `attach` every program
    goes where its section's name (or bcc's own macro) says; `attach` and `ladders` may be functions of the
    settings, where those say which file or process is meant, or how often to sample. `knobs` turns settings
    into the source's `const volatile` variables (bcc: `-D` macros), `data` into other global variables,
    `entries` into what maps hold before anything is attached: map → {key: value}, or pairs of both where a
    key is no number or text; a value None is all zeros. `before_snapshot` names a
    `SEC("syscall")` program that is run just before each read, for what the kernel side must settle
    first. `files` tells files whose numbers are rows of a map. `ladders` names alternatives of
    programs, best first (`{"exec": ("by_tp_btf", "by_kprobe")}`): the
    first rung that this kernel loads and attaches is taken, programs of the others stay out of it.
    With `attach_all` False a program that can't be attached is told of in `status` and costs itself;
    the collector fails only where none could be attached."""

    name: str
    version: str
    help: str
    program: Program
    maps: tuple[Map, ...] = ()
    attach: tuple[Attach, ...] | Callable[[Any], Sequence[Attach]] = ()
    settings: type[CollectorSettings] = CollectorSettings
    knobs: Callable[[Any], Mapping[str, Any]] | None = None
    data: Callable[[Any], Mapping[str, Any]] | None = None
    entries: Callable[[Any], Mapping[str, Entries]] | None = None
    before_snapshot: str | None = None
    files: tuple[SysFiles, ...] = ()
    attach_all: bool = True
    words: Mapping[str, MapWords] = field(default_factory=dict)
    ladders: Ladders | Callable[[Any], Ladders] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not _NAME.match(self.name):
            raise ConfigError(
                f"a collector is named {self.name!r}",
                where="Collector(name=…)",
                remedy="use lower-case letters, digits, - and _, starting with a letter",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoder:
    """A named column → column function: what is made of a field that names it (`decode="errno"`).

    `decode` takes a numpy array, one element for each row (values that are there several times may be given
    once), and returns one of the same length that fits `ctype`. It runs in the worker, in the middle
    of a tick: it must be quick, and has no rights. A decoder that needs to be told something has `of`
    instead: a field names it with an argument (`decode="enum:skb_drop_reason"`), and `of("skb_drop_reason")`,
    called once while the collector is loaded, returns the function."""

    name: str
    help: str
    ctype: str
    """As a field's: `char[16]`, `u32`, …"""
    decode: Callable[[Any], Any] | None = None
    of: Callable[[str], Callable[[Any], Any]] | None = None

    def __post_init__(self) -> None:
        if (self.decode is None) == (self.of is None):
            raise ConfigError(
                f"decoder {self.name!r} has {'neither' if self.decode is None else 'both'} `decode` and `of`",
                where="Decoder(…)",
                remedy="give `decode`, or `of` where it takes an argument",
            )
        if not _NAME.match(self.name):
            raise ConfigError(
                f"a decoder is named {self.name!r}",
                where="Decoder(name=…)",
                remedy="use lower-case letters, digits and _, starting with a letter",
            )
        Field(self.name.replace("-", "_"), self.ctype, Meaning.LABEL)


class Sink(Protocol):
    """Takes records. Its methods run in one thread of its own, never concurrently.

    Raising `SinkError` means "not now": the same frames are offered again after a pause, to a newly
    opened sink; after `SinkFull` to this one, which goes on with what it has. Any other exception is a
    defect of the sink; it is reopened too, and after three failures with the same frames they are given
    up and told as a gap."""

    def write(self, frames: Sequence[Frame]) -> None:
        """Take all of `frames`, in order; return once they are as safe as this sink makes them."""

    def close(self) -> None:
        """Let go of files and sockets; no write follows."""


@dataclass(frozen=True, slots=True)
class SinkContext:
    """What a sink may know of its surroundings."""

    name: str
    """The sink's name in the configuration."""
    state: Path
    """The agent's state directory; relative paths in settings are under it."""
    agent: str
    """The agent's id."""
    host: str
    user: str
    """The user that the sink runs as."""
    stopping: Callable[[], bool] = field(default=lambda: False)
    """Whether the agent is shutting down; a sink that waits asks now and then."""
    time_left: Callable[[], float] = field(default=lambda: float("inf"))
    """Seconds until an agent that is stopping ends, with its sinks closed or not; inf before that."""
    resumed: bool = False
    """Whether a worker before this one had this sink and died: what it wrote last may be cut off."""
    note_lost: Callable[[Sequence[Frame], str], None] = field(default=lambda frames, reason: None)
    """Tell of frames that this sink gave up, with the reason; a `gap` is made of it."""
    note_state: Callable[[BpfleetError | None, Mapping[str, float]], None] = field(
        default=lambda error, spool: None
    )
    """Tell, from any thread, how delivery goes behind `write`: what is wrong (None: nothing), and what waits
    in a spool: `records`, `bytes`, `oldest_s` and `dropped`, for the status."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkType:
    """A kind of sink: its name, settings model and how to open one.

    `open` raises `SinkError` or `PrivilegeError` where the sink can't be opened.
    """

    name: str
    help: str
    open: Callable[[Any, SinkContext], Sink]
    settings: type[SinkSettings] = SinkSettings
    check: Callable[[Any, SinkContext], Iterable[BpfleetError]] | None = None
    """What would keep a sink from working, for `bpfleet check`: looked at as the user that it runs as, while
    an agent may have it open; it takes, makes and changes nothing."""

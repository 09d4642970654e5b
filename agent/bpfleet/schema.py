"""What a collector says of its maps: every field's name, C type and meaning.

Plain data; needs no kernel. How the bytes lie is `bpfleet.layout`'s.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from bpfleet.errors import ConfigError

__all__ = [
    "Field",
    "FieldWords",
    "Fold",
    "Map",
    "MapWords",
    "Meaning",
    "counter",
    "gauge",
    "histogram",
    "label",
    "padding",
    "stack",
    "struct",
    "timestamp",
]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_CTYPE = re.compile(r"(u8|u16|u32|u64|s8|s16|s32|s64|f32|f64|bool|char|bytes|struct)(\[(\d+)\])?\Z")


class Meaning(str, Enum):
    """What a field's number says; readers choose rates, quantiles and sums by it."""

    COUNTER = "counter"
    """Only grows while the program is loaded; a rate is a difference of two snapshots."""
    GAUGE = "gauge"
    """A value now; may go up and down."""
    HISTOGRAM = "histogram"
    """An array of counters, one per log2 bucket: slot 0 counts 0 and 1, slot i counts [2^i, 2^(i+1))."""
    LABEL = "label"
    """Identifies; never summed."""
    TIMESTAMP = "timestamp"
    """Nanoseconds of CLOCK_BOOTTIME or CLOCK_MONOTONIC, as the collector's help says."""
    EVENT = "event"
    """The number of an event; the agent's own, and what says that rows are events, each sent once."""
    PADDING = "padding"
    """Bytes that say nothing; checked against the object, never sent."""


class Fold(str, Enum):
    """How the values that each CPU has of one key become one value."""

    SUM = "sum"
    MIN = "min"
    """The smallest that is not 0: a CPU that never touched the key holds 0."""
    MAX = "max"
    LAST = "last"
    """Of the CPU with the newest `timestamp` field; without one, of the highest-numbered CPU
    that touched the key."""


_FOLD = {
    Meaning.COUNTER: Fold.SUM,
    Meaning.HISTOGRAM: Fold.SUM,
    Meaning.GAUGE: Fold.LAST,
    Meaning.LABEL: Fold.LAST,
    Meaning.TIMESTAMP: Fold.MAX,
    Meaning.EVENT: Fold.LAST,
    Meaning.PADDING: Fold.LAST,
}


@dataclass(frozen=True, slots=True)
class Field:
    """One member of a key or a value.

    `ctype` is u8…u64, s8…s64, f32, f64, bool, `char[N]` (text up to the first NUL), `bytes[N]`,
    an array of numbers such as `u64[32]`, or `struct` (then `fields` are its members).
    """

    name: str
    ctype: str
    meaning: Meaning
    unit: str = ""
    help: str = ""
    fold: Fold | None = None
    fields: tuple[Field, ...] = ()
    stack: str = ""
    """Of a stack's id: the map of type stack_trace that holds the stack."""
    process: str = ""
    """Of a stack's id: the field of its map with the process id; `tgid`, else `pid`, where empty."""
    decode: str = ""
    """The decoder that makes a column of it, such as `errno`."""

    def __post_init__(self) -> None:
        where = f"field {self.name!r}"
        if not _NAME.match(self.name):
            raise ConfigError(f"a field is named {self.name!r}", where=where, remedy="use a C identifier")
        if not _CTYPE.match(self.ctype):
            raise ConfigError(
                f"field {self.name!r} has the C type {self.ctype!r}",
                where=where,
                remedy="use u8…u64, s8…s64, f32, f64, bool, char[N], bytes[N], "
                "an array of numbers such as u64[32], or struct(…)",
            )
        if self.base == "struct" and not self.fields:
            raise ConfigError(f"struct {self.name!r} has no members", where=where, remedy="give it fields")
        if self.base == "struct" and self.count is not None:
            raise ConfigError(
                f"field {self.name!r} is an array of structs",
                where=where,
                remedy="declare it as bytes[N]",
            )
        if self.count == 0:
            raise ConfigError(
                f"field {self.name!r} is an array of no elements",
                where=where,
                remedy="give the array's length",
            )
        if self.stack and (self.count is not None or self.base not in ("u32", "s32", "u64", "s64")):
            raise ConfigError(
                f"stack id {self.name!r} has the C type {self.ctype!r}",
                where=where,
                remedy="keep what bpf_get_stackid returns as an s32, u32, s64 or u64",
            )
        if self.meaning is Meaning.HISTOGRAM and self.count is None:
            raise ConfigError(
                f"histogram {self.name!r} is not an array",
                where=where,
                remedy="give it an array type such as u64[32]",
            )

    @property
    def base(self) -> str:
        """The C type without the array part."""
        return self.ctype.partition("[")[0]

    @property
    def count(self) -> int | None:
        """Elements of an array; None where the field is no array."""
        match = _CTYPE.match(self.ctype)
        assert match is not None
        return int(match.group(3)) if match.group(3) else None

    @property
    def folding(self) -> Fold:
        """The declared fold, else the usual one of the field's meaning."""
        return self.fold or _FOLD[self.meaning]


@dataclass(frozen=True, slots=True)
class Map:
    """One map of a collector: what a key is, what a value is.

    `name` is the map's name in the source, or a section of global variables such as `.bss` (then `key` is
    empty and `value` names the variables that matter). A key or value that is no struct in C is one field,
    whose name is free. `packed` says that the C structs are packed, `control` that user space tells the
    program something by its entries: `bpfleet set` may change them while it runs. A map that is drained (a
    queue, a stack, a ring buffer, a perf event array) has no key, and its value is the event; `event` names
    the struct of the object that a ring buffer's declaration is held against.
    """

    name: str
    key: tuple[Field, ...]
    value: tuple[Field, ...]
    help: str = ""
    packed: bool = False
    event: str = ""
    control: bool = False

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for field in (*self.key, *self.value):
            if field.name in seen and field.meaning is not Meaning.PADDING:
                raise ConfigError(
                    f"map {self.name!r} has two fields named {field.name!r}",
                    where=f"map {self.name!r}",
                    remedy="key and value share one set of column names: rename one",
                )
            seen.add(field.name)
        if not self.value:
            raise ConfigError(
                f"map {self.name!r} has no value fields",
                where=f"map {self.name!r}",
                remedy="name at least one field",
            )

    @property
    def is_globals(self) -> bool:
        """Whether this is a section of global variables rather than a map of its own."""
        return self.name.startswith(".")


def label(name: str, ctype: str, *, unit: str = "", help: str = "", decode: str = "") -> Field:
    """A field that identifies: a command, a pid, an address; `decode` names what makes it readable."""
    return Field(name, ctype, Meaning.LABEL, unit, help, decode=decode)


def counter(name: str, ctype: str = "u64", *, unit: str = "", help: str = "") -> Field:
    """A number that only grows while the program is loaded."""
    return Field(name, ctype, Meaning.COUNTER, unit, help)


def gauge(
    name: str, ctype: str = "u64", *, unit: str = "", help: str = "", fold: Fold | None = None
) -> Field:
    """A value now."""
    return Field(name, ctype, Meaning.GAUGE, unit, help, fold)


def histogram(name: str, slots: int = 32, *, unit: str = "", help: str = "") -> Field:
    """A log2 histogram of u64 counters: slot 0 counts 0 and 1, slot i counts [2^i, 2^(i+1)) of `unit`."""
    return Field(name, f"u64[{slots}]", Meaning.HISTOGRAM, unit, help)


def timestamp(name: str, *, help: str = "") -> Field:
    """A u64 of nanoseconds on the kernel's clock."""
    return Field(name, "u64", Meaning.TIMESTAMP, "ns", help)


def struct(name: str, *fields: Field, help: str = "") -> Field:
    """A struct inside a struct; its members become columns `name.member`."""
    return Field(name, "struct", Meaning.LABEL, "", help, None, fields)


def stack(name: str, stacks: str, ctype: str = "s32", *, process: str = "", help: str = "") -> Field:
    """What `bpf_get_stackid` returned: the id of a stack in the map `stacks`; records tell it as text.

    `process` is the field with the process id, whose symbols a user stack has: `tgid`, else `pid`, where
    empty."""
    return Field(name, ctype, Meaning.LABEL, "", help, stack=stacks, process=process)


def padding(size: int, name: str = "pad") -> Field:
    """`size` bytes that say nothing, where the C struct names its padding."""
    return Field(name, f"bytes[{size}]", Meaning.PADDING)


@dataclass(frozen=True, slots=True)
class FieldWords:
    """What is said of a field whose type the object tells; what is left out stays as the object has it."""

    name: str = ""
    """Another name, for a column that C gives none (a map of plain numbers)."""
    meaning: Meaning | None = None
    unit: str = ""
    help: str = ""
    fold: Fold | None = None
    stack: str = ""
    process: str = ""
    decode: str = ""


@dataclass(frozen=True, slots=True)
class MapWords:
    """What is said of a map whose schema is derived from the object."""

    help: str = ""
    read: bool = True
    """False: the map is the program's own, and not read."""
    event: str = ""
    """Of a ring buffer or perf event array: the type of its events, such as `struct event`."""
    size: int = 0
    """Of the same: bytes that are wanted of each event; 0: all that the type has."""
    control: bool = False
    """Whether `bpfleet set` may change its entries while the program runs."""
    max_entries: int = 0
    """Of a map whose size the object's own loader would fill in; 0: as the object says."""
    fields: Mapping[str, FieldWords] = dataclasses.field(default_factory=dict)
    """By the field's name; `key` and `value` where C has none."""

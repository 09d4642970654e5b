"""How the bytes of a key or value lie: leaves with offsets, from a declaration or from a compiler.

Two layouts meet here: the one a collector *declares* (C's rules of alignment applied to its
fields) and the one the compiler *made* (`bpfleet.btf`, or bcc's table description). `differences`
tells them apart field by field.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from bpfleet.schema import Field, Fold, Map, Meaning

__all__ = ["Layout", "Leaf", "declared", "differences", "nested", "sized", "table", "unnested"]

_SIZES = {
    "u8": 1,
    "u16": 2,
    "u32": 4,
    "u64": 8,
    "s8": 1,
    "s16": 2,
    "s32": 4,
    "s64": 8,
    "f32": 4,
    "f64": 8,
    "bool": 1,
    "char": 1,
    "bytes": 1,
}


@dataclass(frozen=True, slots=True)
class Leaf:
    """One column's place in the bytes: `size` bytes at `offset`.

    `base` is u8…u64, s8…s64, f32, f64, bool, char (text) or bytes; `count` is the number of elements of
    an array, None for a scalar. `name` is dotted where structs nest; empty where the compiler
    knows no name (a key that is a plain `__u32`).
    """

    name: str
    offset: int
    base: str
    count: int | None = None
    meaning: Meaning = Meaning.GAUGE
    unit: str = ""
    help: str = ""
    fold: Fold = Fold.LAST
    stack: str = ""
    process: str = ""
    decode: str = ""

    @property
    def element_size(self) -> int:
        """Bytes of one element."""
        return _SIZES[self.base]

    @property
    def size(self) -> int:
        """Bytes of the whole leaf."""
        return self.element_size * (1 if self.count is None else self.count)

    @property
    def ctype(self) -> str:
        """The C type as a declaration writes it."""
        return self.base if self.count is None else f"{self.base}[{self.count}]"


@dataclass(frozen=True, slots=True)
class Layout:
    """A key's or value's total size in bytes and its leaves by offset."""

    size: int
    leaves: tuple[Leaf, ...]

    def columns(self) -> Iterator[Leaf]:
        """The leaves that become columns: all but padding."""
        return (leaf for leaf in self.leaves if leaf.meaning is not Meaning.PADDING)


def declared(fields: Sequence[Field], *, packed: bool = False) -> Layout:
    """Lay `fields` out as C does on a 64-bit machine; one scalar field stands for itself."""
    leaves, size, align = _place(fields, 0, "", packed)
    return Layout(_round_up(size, align), tuple(leaves))


def _place(fields: Sequence[Field], start: int, prefix: str, packed: bool) -> tuple[list[Leaf], int, int]:
    leaves: list[Leaf] = []
    offset, widest = start, 1
    for field in fields:
        if field.base == "struct":
            _, inner_size, align = _place(field.fields, 0, "", packed)
            offset = _round_up(offset, align)
            inner, _, _ = _place(field.fields, offset, f"{prefix}{field.name}.", packed)
            leaves.extend(inner)
            offset += _round_up(inner_size, align)
        else:
            align = 1 if packed else _SIZES[field.base]
            offset = _round_up(offset, align)
            leaf = Leaf(
                prefix + field.name,
                offset,
                field.base,
                field.count,
                field.meaning,
                field.unit,
                field.help,
                field.folding,
                field.stack,
                field.process,
                field.decode,
            )
            leaves.append(leaf)
            offset += leaf.size
        widest = max(widest, align)
    return leaves, offset, widest


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def differences(want: Layout, got: Layout, part: str) -> list[str]:
    """Say, one sentence per difference, how `got` (compiled) is not `want` (declared); `part` is
    "key" or "value"."""
    found: list[str] = []
    if want.size != got.size:
        found.append(f"{part} size: declared {want.size} bytes, compiled {got.size} bytes")
    unnamed = len(got.leaves) == 1 and not got.leaves[0].name
    compiled = {leaf.name: leaf for leaf in got.leaves}
    if unnamed and len(want.leaves) == 1:
        compiled = {want.leaves[0].name: replace(got.leaves[0], name=want.leaves[0].name)}
    for leaf in want.leaves:
        if leaf.meaning is Meaning.PADDING:
            continue
        other = compiled.pop(leaf.name, None)
        if other is None:
            found.append(f"{part} field {leaf.name!r}: declared {leaf.ctype}, not in the object")
            continue
        if leaf.offset != other.offset:
            found.append(
                f"{part} field {leaf.name!r}: declared at offset {leaf.offset}, compiled at {other.offset}"
            )
        if not _same_bytes(leaf, other):
            found.append(f"{part} field {leaf.name!r}: declared {leaf.ctype}, compiled {other.ctype}")
    padded = [leaf for leaf in want.leaves if leaf.meaning is Meaning.PADDING]
    for other in compiled.values():
        inside_padding = any(
            pad.offset <= other.offset and other.offset + other.size <= pad.offset + pad.size
            for pad in padded
        )
        if not inside_padding and other.meaning is not Meaning.PADDING:
            name = other.name or "(no struct)"
            found.append(f"{part} field {name!r}: in the object as {other.ctype}, not declared")
    return found


def _same_bytes(want: Leaf, got: Leaf) -> bool:
    """Same count, size and signedness; text, bytes and arrays of 1-byte numbers are told apart by
    the declaration only."""
    if want.base in ("char", "bytes"):
        return want.size == got.size and (got.element_size == 1 or want.base == "bytes")
    if want.base == "bool":
        return got.base in ("bool", "u8") and want.count == got.count
    if got.base in ("char", "bool") and want.element_size == 1:
        return want.count == got.count
    return want.base == got.base and want.count == got.count


def sized(size: int) -> Layout:
    """Where only a size is known: a number where it may be one, else bytes; nothing for nothing."""
    if not size:
        return Layout(0, ())
    number = {1: "u8", 2: "u16", 4: "u32", 8: "u64"}.get(size)
    return Layout(size, (Leaf("", 0, number) if number else Leaf("", 0, "bytes", size),))


def nested(outer: Layout, inner: Layout) -> tuple[Layout, int]:
    """The key of a map of maps, as a struct of the outer key and the inner one; where the inner one begins.

    A leaf without a name is called `outer` or `inner`; an outer one whose name is taken, `outer.NAME`."""
    aligns = [max((leaf.element_size for leaf in part.leaves), default=1) for part in (outer, inner)]
    at = _round_up(outer.size, aligns[1])
    taken = {leaf.name for leaf in inner.leaves}
    leaves = [replace(leaf, name=_free(leaf.name or "outer", taken)) for leaf in outer.leaves]
    leaves += [replace(leaf, name=leaf.name or "inner", offset=leaf.offset + at) for leaf in inner.leaves]
    return Layout(_round_up(at + inner.size, max(aligns)), tuple(leaves)), at


def _free(name: str, taken: set[str]) -> str:
    return f"outer.{name}" if name in taken else name


def unnested(both: Layout, at: int, outer_size: int, inner_size: int) -> tuple[Layout, Layout]:
    """The two parts of a key that `nested` made."""
    front = tuple(leaf for leaf in both.leaves if leaf.offset < at)
    back = tuple(replace(leaf, offset=leaf.offset - at) for leaf in both.leaves if leaf.offset >= at)
    return Layout(outer_size, front), Layout(inner_size, back)


def table(layout: Layout) -> str:
    """The layout as lines `offset  type  name`, for messages and `bpfleet inspect`."""
    rows = [f"{leaf.offset:>6}  {leaf.ctype:<10} {leaf.name or '-'}" for leaf in layout.leaves]
    return "\n".join([*rows, f"{layout.size:>6}  (size)"])


def declared_map(spec: Map) -> tuple[Layout, Layout]:
    """The declared layouts of a map's key and value."""
    return declared(spec.key, packed=spec.packed), declared(spec.value, packed=spec.packed)

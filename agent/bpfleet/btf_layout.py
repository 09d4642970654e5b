"""From a BTF type to a `Layout`: structs become flat leaves with dotted names.

A derived layout never fails because of one odd member: what has no better form is a leaf of bytes.

    struct, anonymous or not     its members; `outer.member`, or `member` where it has no name
    union of several members     bytes; one without a name is called `first_or_last`
    bitfields in a row           bytes that cover them, called by the field or `first_to_last`
    array of numbers, any rank   one array, its dimensions multiplied out; of structs: bytes
    char[N]                      char[N], text; char[M][N] is bytes, since each row has its own end
    pointer, enum, float         u64; u32 or s32, …; f32 or f64
    128-bit numbers              bytes
    what only the kernel uses    padding: spin locks, timers, lists, kptrs, members named `pad`
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from bpfleet.btf_types import MAX_DEPTH, Kind, Member, Type, Types
from bpfleet.errors import ObjectError
from bpfleet.layout import Layout, Leaf
from bpfleet.schema import Meaning

__all__ = ["Placer", "layout_of"]

_MAX_MEMBERS = 16384
"""Members visited for one layout: a little BTF can describe an enormous tree."""
_PADDING = re.compile(r"_*pad(ding)?[0-9_]*\Z|_+pad", re.IGNORECASE)
_KPTR_TAGS = frozenset({"kptr", "kptr_ref", "kptr_untrusted", "percpu_kptr", "uptr"})
_KERNEL_ONLY = frozenset(
    f"bpf_{name}"
    for name in (
        *("spin_lock", "res_spin_lock", "timer", "wq", "task_work", "refcount", "dynptr"),
        *("list_head", "list_node", "rb_root", "rb_node"),
    )
)
_NUMBERS = {
    (Kind.INT, 1): "8",
    (Kind.INT, 2): "16",
    (Kind.INT, 4): "32",
    (Kind.INT, 8): "64",
    (Kind.FLOAT, 4): "f32",
    (Kind.FLOAT, 8): "f64",
}


def layout_of(types: Types, type_id: int, part: str) -> Layout:
    """The layout of a map's key or value (`part` says which) of that type.

    In a key every leaf is a label; in a value numbers are gauges, and text, bytes and pointers labels. Raises
    ObjectError for a type without a size and for malformed BTF.
    """
    size = types.size_of(type_id)
    placer = Placer(types, part)
    placer.place(type_id, 0, "")
    return Layout(size, placer.in_order())


class Placer:
    """Collects leaves: `place` a type at an offset, then take them `in_order`."""

    def __init__(self, types: Types, part: str) -> None:
        self._types = types
        self._key = part == "key"
        self._leaves: list[Leaf] = []
        self._left = _MAX_MEMBERS
        self._signs: dict[int, bool] = {}

    def in_order(self) -> tuple[Leaf, ...]:
        """The leaves, by offset."""
        return tuple(sorted(self._leaves, key=lambda leaf: leaf.offset))

    def place(self, type_id: int, offset: int, name: str, depth: int = 0) -> None:
        """Put the leaves of a type at `offset`, under `name` (empty: its members stand for themselves)."""
        if depth > MAX_DEPTH:
            raise self._too_large(type_id)
        size = self._types.size_of(type_id)
        found = self._types.resolve(type_id)
        if _PADDING.match(name.rpartition(".")[2]) or self._kernel_only(found):
            self._add(name, offset, "bytes", size, Meaning.PADDING)
        elif found.kind in (Kind.STRUCT, Kind.UNION):
            self._composite(found, offset, name, depth)
        elif found.kind is Kind.ARRAY:
            self._array(found, offset, size, name)
        else:
            base = self._base(found)
            is_label = base == "char" or found.kind is Kind.PTR
            self._add(
                name,
                offset,
                base or "bytes",
                None if base else size,
                Meaning.LABEL if is_label or not base else Meaning.GAUGE,
            )

    def _add(self, name: str, offset: int, base: str, count: int | None, meaning: Meaning) -> None:
        if count == 0:  # a flexible array, an empty struct
            return
        if self._key and meaning is Meaning.GAUGE:
            meaning = Meaning.LABEL
        self._leaves.append(Leaf(name, offset, base, count, meaning))

    def _composite(self, type: Type, offset: int, name: str, depth: int) -> None:
        if type.kind is Kind.UNION and type.length > 1:
            self._add(name or self._name_of(type, "or"), offset, "bytes", type.size, Meaning.LABEL)
            return
        run: list[Member] = []
        for member in self._members(type):
            bits = self._bitfield(member)
            self._check_inside(type, member, bits)
            if bits:
                run.append(Member(member.name, member.type, member.bit_offset, bits))
                continue
            self._bitfields(run, offset, name)
            run = []
            self._member(member, offset, name, depth)
        self._bitfields(run, offset, name)

    def _members(self, type: Type) -> Iterator[Member]:
        self._left -= type.length
        if self._left < 0:
            raise self._too_large(type.id)
        return self._types.members(type)

    def _too_large(self, type_id: int) -> ObjectError:
        return self._types.error(
            f"it has more than {_MAX_MEMBERS} members or {MAX_DEPTH} levels",
            f"BTF type {type_id}",
            "make it a plain array of bytes in the C source",
        )

    def _member(self, member: Member, offset: int, prefix: str, depth: int) -> None:
        inner = self._types.resolve(member.type)
        name = member.name
        if not name and inner.kind not in (Kind.STRUCT, Kind.UNION):
            name = "pad"
        elif not name and prefix and inner.kind is Kind.UNION and inner.length > 1:
            # Named here, where it becomes one leaf, so that the name goes below the prefix.
            name = self._name_of(inner, "or")
        full = f"{prefix}.{name}" if prefix and name else prefix or name
        self.place(member.type, offset + member.bit_offset // 8, full, depth + 1)

    def _bitfield(self, member: Member) -> int:
        """The member's width in bits; 0 where it is no bitfield, or one that is as good as a plain number."""
        found = self._types.resolve(member.type)
        bits = member.bits
        if found.kind is Kind.INT and not bits and member.bit_offset % 8 == 0:
            # Before bitfields had a width of their own, the int's type said it.
            width = self._types.integer(found).bits
            bits = width if width != found.size * 8 else 0
        plain = bits == found.size * 8 and member.bit_offset % 8 == 0
        return 0 if plain else bits or (1 if member.bit_offset % 8 else 0)

    def _bitfields(self, run: Sequence[Member], offset: int, prefix: str) -> None:
        if not run:
            return
        start = min(member.bit_offset for member in run) // 8
        end = max(-(-(member.bit_offset + member.bits) // 8) for member in run)
        names = [member.name for member in run if member.name and not _PADDING.match(member.name)]
        meaning = Meaning.LABEL if names else Meaning.PADDING
        name = _joined(names, "to") or "pad"
        self._add(f"{prefix}.{name}" if prefix else name, offset + start, "bytes", end - start, meaning)

    def _check_inside(self, type: Type, member: Member, bits: int) -> None:
        size = bits or self._types.size_of(member.type) * 8
        if member.bit_offset + size > type.size * 8:
            raise self._types.error(
                f"{member.name or 'a member'!r} goes beyond the {type.size} bytes of {type}", "BTF types"
            )

    def _array(self, type: Type, offset: int, size: int, name: str) -> None:
        dimensions = 0
        found, count = type, 1
        while found.kind is Kind.ARRAY and dimensions < MAX_DEPTH:
            element, length = self._types.array(found)
            count, found, dimensions = count * length, self._types.resolve(element), dimensions + 1
        base = self._base(found)
        if self._kernel_only(found):
            self._add(name, offset, "bytes", size, Meaning.PADDING)
        elif base is None or (base == "char" and dimensions > 1):
            self._add(name, offset, "bytes", size, Meaning.LABEL)
        else:
            is_label = base == "char" or found.kind is Kind.PTR
            self._add(name, offset, base, count, Meaning.LABEL if is_label else Meaning.GAUGE)

    def _base(self, type: Type) -> str | None:
        """The leaf's base for one number; None where there is none and bytes must do."""
        if type.kind is Kind.PTR:
            return "u64"
        if type.kind in (Kind.ENUM, Kind.ENUM64):
            width = _NUMBERS.get((Kind.INT, type.size))
            return f"{'s' if self._signed(type) else 'u'}{width}" if width else None
        width = _NUMBERS.get((type.kind, type.size))
        if width is None or type.kind is Kind.FLOAT:
            return width
        integer = self._types.integer(type)
        if type.size == 1 and (integer.boolean or type.name == "char"):
            return "bool" if integer.boolean else "char"
        return f"{'s' if integer.signed else 'u'}{width}"

    def _signed(self, enum: Type) -> bool:
        if enum.id not in self._signs:
            # Compilers before LLVM 15 never set the flag; a negative value tells as much.
            negative = enum.kind is Kind.ENUM and any(one.value < 0 for one in self._types.enumerators(enum))
            self._signs[enum.id] = enum.flag or negative
        return self._signs[enum.id]

    def _kernel_only(self, type: Type) -> bool:
        if type.kind is Kind.STRUCT:
            return type.name in _KERNEL_ONLY
        if type.kind is not Kind.PTR:
            return False
        tag = self._types.type(type.ref)
        return tag.kind is Kind.TYPE_TAG and tag.name in _KPTR_TAGS

    def _name_of(self, type: Type, word: str) -> str:
        """A name for a composite that has none, by the first names found inside."""
        names: list[str] = []
        for member in self._members(type):
            inner = self._types.resolve(member.type)
            if member.name:
                names.append(member.name)
            elif inner.kind in (Kind.STRUCT, Kind.UNION):
                names.append(next((one.name for one in self._members(inner) if one.name), ""))
        return _joined([name for name in names if name], word) or "bytes"


def _joined(names: Sequence[str], word: str) -> str:
    if len(names) < 2:
        return "".join(names)
    return f"{names[0]}_{word}_{names[-1]}"

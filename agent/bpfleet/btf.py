"""BTF of an object file or of a kernel, read without libbpf and without a kernel.

types = btf.parse(elf.section(".BTF").data, "hits.bpf.o")
for one in types.maps():
    types.layout(one.value_type, part="value")
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from bpfleet.btf_layout import Placer, layout_of
from bpfleet.btf_maps import MapDef, map_definitions
from bpfleet.btf_types import MAX_DEPTH, Kind, Type, Types
from bpfleet.checked_bytes import CheckedBytes
from bpfleet.layout import Layout

__all__ = ["Btf", "Kind", "MapDef", "core_relocations", "parse"]

_EXTERN = 2
_EXT_HEADER = struct.Struct("<HBBIIIII")
_EXT_RELOCATIONS = struct.Struct("<II")
_WORD = struct.Struct("<I")
_PAIR = struct.Struct("<II")


class Btf(Types):
    """The types of one `.BTF` section, and what bpfleet wants of them."""

    def layout(self, type_id: int, *, part: str) -> Layout:
        """A map's key or value (`part`) of that type, as flat leaves; see `bpfleet.btf_layout`."""
        return layout_of(self, type_id, part)

    def maps(self) -> tuple[MapDef, ...]:
        """Every map that the object defines."""
        return map_definitions(self)

    def data_sections(self) -> Mapping[str, Type]:
        """Sections with variables (`.bss`, `.data`, `.rodata`, `.maps`, `license`, …), by name."""
        return {section.name: section for section in self.of_kind(Kind.DATASEC)}

    def globals(self, section: Type, size: int, offsets: Mapping[str, int]) -> Layout:
        """The variables of a data section of `size` bytes, structs flattened with dotted names.

        `offsets` are those of the ELF symbols, by name: in an object that has not been linked, BTF says 0 for
        each.
        """
        placer = Placer(self, "value")
        for variable in self.variables(section):
            type = self.type(variable.type)
            if type.kind is not Kind.VAR or self.linkage(type) == _EXTERN:
                continue
            offset = variable.offset if section.size else offsets.get(type.name)
            place = f"variable {type.name!r} of section {section.name}"
            if offset is None:
                raise self.error("it has no symbol", place, "keep the symbols: llvm-strip -g leaves them")
            if offset + max(variable.size, self.size_of(type.ref)) > size:
                raise self.error(f"it goes beyond the section's {size} bytes", place)
            placer.place(type.ref, offset, type.name)
        return Layout(size, placer.in_order())

    def knobs(self, section: Type) -> frozenset[str]:
        """Variables of `.rodata` that are volatile: to be set before loading, not folded into the code."""
        found = (self.type(one.type) for one in self.variables(section))
        return frozenset(one.name for one in found if one.kind is Kind.VAR and self._volatile(one.ref))

    def pointed_structs(self) -> dict[str, str]:
        """Global variables that point to a struct, and its name."""
        found: dict[str, str] = {}
        for variable in self.of_kind(Kind.VAR):
            pointer = self.resolve(variable.ref)
            if pointer.kind is Kind.PTR:
                pointed = self.resolve(pointer.ref)
                if pointed.kind is Kind.STRUCT and pointed.name:
                    found[variable.name] = pointed.name
        return found

    def _volatile(self, type_id: int) -> bool:
        found = self.type(type_id)
        # Qualifiers of an array are on its elements.
        for _ in range(2 * MAX_DEPTH):
            if found.kind is Kind.VOLATILE:
                return True
            if found.kind is Kind.ARRAY:
                found = self.type(self.array(found)[0])
            elif found.kind in (Kind.CONST, Kind.RESTRICT, Kind.TYPEDEF, Kind.TYPE_TAG):
                found = self.type(found.ref)
            else:
                break
        return False


def parse(data: bytes, name: str) -> Btf:
    """Read the bytes of a `.BTF` section (or of `/sys/kernel/btf/vmlinux`); `name` stands for it in errors.

    Raises ObjectError, here or when the malformed part is asked for.
    """
    return Btf(data, name)


def core_relocations(data: bytes, name: str) -> int:
    """How many CO-RE relocations the bytes of a `.BTF.ext` section hold; raises ObjectError."""
    file = CheckedBytes(data, name)
    place = "the .BTF.ext header"
    magic, _, _, header, *_ = file.unpack(_EXT_HEADER, 0, place)
    if magic != 0xEB9F:
        raise file.error(f"magic {magic:#x} is not that of .BTF.ext", place)
    if header < _EXT_HEADER.size + _EXT_RELOCATIONS.size:
        return 0
    start, size = file.unpack(_EXT_RELOCATIONS, _EXT_HEADER.size, place)
    if not size:
        return 0
    place = "the CO-RE relocations"
    at, end = header + start, header + start + size
    file.check(at, size, place)
    (record,) = file.unpack(_WORD, at, place)
    at, count = at + 4, 0
    while at < end:
        _, records = file.unpack(_PAIR, at, place)
        at, count = at + _PAIR.size + records * record, count + records
    if at != end:
        raise file.error("a section's records are cut off", place)
    return count

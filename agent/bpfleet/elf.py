"""A strict reader of ELF64 little-endian object files for BPF: sections and symbols.

Layouts are those of the System V ABI, "Object Files" (Elf64_Ehdr, Elf64_Shdr, Elf64_Sym). Nothing is copied
but names; a file that is not what it must be raises ObjectError, and nothing else.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from bpfleet.checked_bytes import CheckedBytes
from bpfleet.errors import ObjectError

__all__ = [
    "EM_BPF",
    "SHF_ALLOC",
    "SHF_EXECINSTR",
    "SHT_NOBITS",
    "SHT_PROGBITS",
    "Elf",
    "Section",
    "Symbol",
    "read",
]

EM_BPF = 247
SHT_PROGBITS = 1
SHT_SYMTAB = 2
SHT_STRTAB = 3
SHT_NOBITS = 8
SHF_ALLOC = 0x2
SHF_EXECINSTR = 0x4

_ET_REL = 1
_SHN_LORESERVE = 0xFF00
"""Section indices from here on are no sections (absolute, common, …)."""
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_TYPES = {0: "notype", 1: "object", 2: "func", 3: "section", 4: "file", 5: "common", 6: "tls"}
_BINDINGS = {0: "local", 1: "global", 2: "weak"}
_MACHINES = {3: "x86", 40: "arm", 62: "x86-64", 183: "arm64", 243: "RISC-V"}
_COMPILE = "give an object made by clang -g -O2 -target bpf"


@dataclass(frozen=True, slots=True)
class Section:
    """One section; `type` and `flags` are the ABI's SHT_… and SHF_… numbers, `size` is in bytes."""

    index: int
    name: str
    type: int
    flags: int
    offset: int
    size: int
    link: int
    entry_size: int
    file: bytes = field(repr=False, compare=False)

    @property
    def data(self) -> bytes:
        """The section's bytes; empty for one that takes no room in the file (`.bss`)."""
        # Cut when asked for: thousands of headers may name the same megabytes.
        return b"" if self.type == SHT_NOBITS else self.file[self.offset : self.offset + self.size]


@dataclass(frozen=True, slots=True)
class Symbol:
    """One symbol: `value` is its offset in the section of that index and name.

    `type` is notype, object, func, section, file, …; `binding` is local, global or weak. `section` is 0
    and `section_name` empty for one that is in no section.
    """

    name: str
    section: int
    section_name: str
    value: int
    size: int
    type: str
    binding: str


@dataclass(frozen=True, slots=True)
class Elf:
    """A file's sections, in its order, and its symbols."""

    name: str
    sections: tuple[Section, ...]
    symbols: tuple[Symbol, ...]

    def section(self, name: str) -> Section | None:
        """The first section of that name."""
        return next((one for one in self.sections if one.name == name), None)


def read(data: bytes, name: str) -> Elf:
    """Read an object file's bytes; `name` stands for it in errors. Raises ObjectError."""
    file = CheckedBytes(data, name)
    offset, count, names_at = _header(file)
    sections = _sections(file, offset, count, names_at)
    return Elf(name, sections, _symbols(file, sections))


def _header(file: CheckedBytes) -> tuple[int, int, int]:
    """Offset and number of the section headers, and which of them holds the sections' names."""
    if not file.data.startswith(b"\x7fELF"):
        what = "this is not an ELF file" if file.data else "the file is empty"
        raise file.error(what, "its first bytes", _COMPILE)
    ident, kind, machine, _, _, _, offset, _, _, _, _, entry, count, names_at = file.unpack(
        _HEADER, 0, "the ELF header"
    )
    if ident[4] != 2:
        raise file.error("this is not a 64-bit ELF file", "the ELF header", _COMPILE)
    if ident[5] != 1:
        raise file.error(
            "this is a big-endian object", "the ELF header", "compile it with clang -target bpfel"
        )
    if machine != EM_BPF:
        raise file.error(
            f"this object is for {_MACHINES.get(machine, f'machine {machine}')}, not for BPF",
            "the ELF header",
            _COMPILE,
        )
    if kind != _ET_REL:
        raise file.error(
            f"this is an ELF file of type {kind}, not an object file", "the ELF header", _COMPILE
        )
    if entry != _SECTION.size or not count:
        raise file.error(f"{count} section headers of {entry} bytes make no sense", "the ELF header")
    return offset, count, names_at


def _sections(file: CheckedBytes, offset: int, count: int, names_at: int) -> tuple[Section, ...]:
    raw = [
        file.unpack(_SECTION, offset + index * _SECTION.size, f"section header {index}")
        for index in range(count)
    ]
    for index, (_, kind, _, _, start, size, *_) in enumerate(raw):
        if kind not in (0, SHT_NOBITS):
            file.check(start, size, f"section {index}")
    if names_at >= count or raw[names_at][1] != SHT_STRTAB:
        raise file.error("there is no table of section names", "the ELF header")
    names, names_size = raw[names_at][4], raw[names_at][5]
    sections = []
    for index, (at, kind, flags, _, start, size, link, _, _, entry) in enumerate(raw):
        text = _name(file, names, names_size, at, f"the name of section {index}") if index else ""
        sections.append(Section(index, text, kind, flags, start, size, link, entry, file.data))
    return tuple(sections)


def _symbols(file: CheckedBytes, sections: tuple[Section, ...]) -> tuple[Symbol, ...]:
    table = next((one for one in sections if one.type == SHT_SYMTAB), None)
    if table is None:
        return ()
    place = f"the symbol table (section {table.index})"
    if table.entry_size != _SYMBOL.size or table.size % _SYMBOL.size:
        raise file.error(f"{table.size} bytes in entries of {table.entry_size} make no sense", place)
    if table.link >= len(sections) or sections[table.link].type != SHT_STRTAB:
        raise file.error("it names no table of names", place)
    names = sections[table.link]
    symbols = []
    for index, (at, info, _, section, value, size) in enumerate(_SYMBOL.iter_unpack(table.data)):
        text = _name(file, names.offset, names.size, at, f"the name of symbol {index}")
        if section >= _SHN_LORESERVE:
            section = 0
        if section >= len(sections):
            raise file.error(f"it is in section {section} of {len(sections)}", f"symbol {index} {text!r}")
        symbols.append(
            Symbol(
                text,
                section,
                sections[section].name,
                value,
                size,
                _TYPES.get(info & 0xF, "other"),
                _BINDINGS.get(info >> 4, "other"),
            )
        )
    return tuple(symbols)


def _name(file: CheckedBytes, table: int, size: int, at: int, place: str) -> str:
    if at >= size:
        raise _beyond(file, at, size, place)
    return file.text(table + at, table + size, place)


def _beyond(file: CheckedBytes, at: int, size: int, place: str) -> ObjectError:
    return file.error(f"offset {at} is beyond the table of names ({size} bytes)", place)

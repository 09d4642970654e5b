"""Binaries and libraries that programs are attached in: their functions, and whether Go made them.

Layouts are those of the System V ABI (Elf64_Ehdr, Elf64_Shdr, Elf64_Sym), little-endian.
"""

from __future__ import annotations

import fnmatch
import mmap
import platform
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from bpfleet.checked_bytes import CheckedBytes
from bpfleet.errors import AttachError, ObjectError
from bpfleet.loader.go_stack_check import LONGEST_CHECK, after_stack_check
from bpfleet.loader.x86_lengths import Undecodable, instructions, returns

__all__ = ["Executable", "Function"]

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_SYMTAB, _DYNSYM, _NOBITS = 2, 11, 8
_FUNC, _IFUNC = 2, 10
_MACHINES = {"x86_64": 62, "aarch64": 183}
_GO_SECTIONS = (".go.buildinfo", ".note.go.buildid")


@dataclass(frozen=True, slots=True)
class Function:
    """A function: its name, its offset in the file and its size in bytes (0: not told)."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class _Section:
    name: str
    kind: int
    address: int
    offset: int
    size: int
    link: int


class Executable:
    """An ELF file of this machine; raises AttachError where it is none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                content = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        except (OSError, ValueError) as error:
            raise AttachError(
                f"{path} can't be read: {getattr(error, 'strerror', None) or error}",
                where=str(path),
                remedy="name a binary or library",
            ) from None
        # A mapping, not a copy: symbols of large binaries are a small part of them.
        self._file = CheckedBytes(content, str(path))  # type: ignore[arg-type]
        try:
            self._sections = self._read_sections()
        except ObjectError as error:
            raise AttachError(
                f"{path} is no ELF file of this machine: {error.what}",
                where=str(path),
                remedy="name a binary or library; a script has its interpreter's symbols",
            ) from None

    @property
    def made_by_go(self) -> bool:
        """Whether Go's linker made it; its goroutines move their stacks."""
        return any(one.name in _GO_SECTIONS for one in self._sections)

    def functions(self, pattern: str) -> list[Function]:
        """The function of that name, else those that a glob (`get*`) matches; each place once.

        A name goes before a glob: Go's names have stars and brackets in them (`main.(*Server).Serve`)."""
        every = list(self._functions())
        named = [one for one in every if one.name == pattern]
        if not named and set("*?[") & set(pattern):
            named = [one for one in every if fnmatch.fnmatchcase(one.name, pattern)]
        return sorted({one.offset: one for one in named}.values(), key=lambda one: one.name)

    def names_like(self, wrong: str) -> list[str]:
        """A few names that are like a misspelt one; of all, where none is."""
        names = sorted({one.name for one in self._functions()})
        # Comparing with every name of a large binary takes seconds.
        near = [name for name in names if name[:2] == wrong[:2] and abs(len(name) - len(wrong)) < 4]
        return get_close_matches(wrong, near[:5000], 3) or names[:5]

    def return_offsets(self, function: Function) -> list[int]:
        """Offsets in the file of its return instructions; raises AttachError where its code can't be read."""
        code = self._file.cut(function.offset, function.size, f"function {function.name}")
        try:
            if platform.machine() == "x86_64":
                found = returns(code)
            else:
                words = struct.unpack(f"<{len(code) // 4}I", code[: len(code) // 4 * 4])
                # ret, and retaa and retab with pointer authentication
                found = [
                    4 * at
                    for at, word in enumerate(words)
                    if word & 0xFFFFFC1F == 0xD65F0000 or word & 0xFFFFFBFF == 0xD65F0BFF
                ]
        except Undecodable as error:
            raise AttachError(
                f"the return instructions of {function.name!r} can't be told: {error}",
                where=str(self.path),
                remedy="attach to the function's start, or to an offset: uprobe with FUNCTION+OFFSET",
            ) from None
        return [function.offset + at for at in found]

    def body_offset(self, function: Function) -> int:
        """Offset in the file behind a Go function's look at its stack; of others, and where the machine is no
        x86-64, that of the first instruction."""
        if not function.size or platform.machine() != "x86_64":
            return function.offset
        code = self._file.cut(function.offset, min(function.size, LONGEST_CHECK), f"function {function.name}")
        return function.offset + after_stack_check(code)

    def splits_an_instruction(self, offset: int) -> bool:
        """Whether this offset in the file is known to lie inside an instruction of a function."""
        for one in self._functions():
            if one.offset <= offset < one.offset + one.size:
                if platform.machine() != "x86_64":
                    return (offset - one.offset) % 4 != 0
                try:
                    code = self._file.cut(one.offset, one.size, one.name)
                    return offset - one.offset not in [at for at, _ in instructions(code)]
                except Undecodable:
                    return False
        return False

    def _read_sections(self) -> list[_Section]:
        ident, _, machine, _, _, _, offset, _, _, _, _, entry, count, names_at = self._file.unpack(
            _HEADER, 0, "the ELF header"
        )
        if ident[:6] != b"\x7fELF\x02\x01" or machine != _MACHINES.get(platform.machine()):
            raise self._file.error("it is of another kind", "the ELF header")
        if entry != _SECTION.size or names_at >= count:
            return []
        raw = [
            self._file.unpack(_SECTION, offset + at * entry, f"section header {at}") for at in range(count)
        ]
        names, size = raw[names_at][4], raw[names_at][5]
        return [
            _Section(
                self._file.text(names + at, names + size, "a section's name"),
                kind,
                address,
                start,
                length,
                link,
            )
            for at, kind, _, address, start, length, link, _, _, _ in raw
        ]

    def _functions(self) -> Iterator[Function]:
        for table in self._sections:
            if table.kind not in (_SYMTAB, _DYNSYM) or table.link >= len(self._sections):
                continue
            names = self._sections[table.link]
            content = self._file.cut(table.offset, table.size // _SYMBOL.size * _SYMBOL.size, table.name)
            texts = self._file.cut(names.offset, names.size, names.name)
            for at, info, _, section, value, size in _SYMBOL.iter_unpack(content):
                if info & 0xF not in (_FUNC, _IFUNC) or not 0 < section < len(self._sections):
                    continue
                inside = self._sections[section]
                end = texts.find(b"\0", at)
                if inside.kind != _NOBITS and end >= 0:
                    name = texts[at:end].decode("utf-8", "replace")
                    yield Function(name, value - inside.address + inside.offset, size)

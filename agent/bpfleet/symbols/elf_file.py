"""Functions of a program or library, by its ELF file's tables of symbols; read in pieces, within bounds.

The file is anybody's. What makes no sense in it gives no symbols, never an error.
"""

from __future__ import annotations

import os
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from bpfleet.symbols.table import Addresses, SymbolTable, empty_table

__all__ = ["ElfFile", "ElfFiles", "read_build_id", "read_elf"]

_DEBUG = Path("/usr/lib/debug/.build-id")
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM, _SECTION = struct.Struct("<IIQQQQQQ"), struct.Struct("<IIQQQQIIQQ")
_PT_LOAD, _PT_NOTE, _SHT_SYMTAB, _SHT_DYNSYM, _BUILD_ID = 1, 4, 2, 11, 3
_SYMBOL = np.dtype(
    [("name", "<u4"), ("info", "u1"), ("other", "u1"), ("section", "<u2"), ("value", "<u8"), ("size", "<u8")]
)
_FUNC, _IFUNC = 2, 10
_MOST_BYTES = 64 << 20
"""Of one table; larger ones are left out."""
_MOST_BUILD_IDS = 4096

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ElfFile:
    """What of a file matters here: its functions by address, and where addresses lie in it."""

    table: SymbolTable
    segments: tuple[tuple[int, int, int], ...]
    """(offset in the file, bytes, address) of each part that is loaded."""
    build_id: str

    def find(self, offsets: Addresses) -> list[str]:
        """The function at each offset in the file; "" where there is none."""
        addresses = np.zeros_like(offsets)
        for start, size, address in self.segments:
            inside = (offsets >= start) & (offsets < start + size)
            addresses[inside] = offsets[inside] - np.uint64(start) + np.uint64(address)
        return self.table.find(addresses)


class _Pieces:
    """Reads within one file; b"" for what lies outside, or is too much."""

    def __init__(self, fd: int) -> None:
        self._fd, self.size = fd, os.fstat(fd).st_size

    def read(self, offset: int, size: int) -> bytes:
        if not (0 <= size <= _MOST_BYTES and 0 <= offset <= self.size - size):
            return b""
        data = os.pread(self._fd, size, offset)
        return data if len(data) == size else b""

    def structs(self, form: struct.Struct, offset: int, count: int) -> Iterator[tuple[int, ...]]:
        return form.iter_unpack(self.read(offset, form.size * count))


@dataclass(frozen=True, slots=True)
class _Head:
    """What comes before the symbols."""

    segments: tuple[tuple[int, int, int], ...]
    build_id: str
    sections: tuple[int, int]
    """Where their headers are, and how many."""


def read_elf(fd: int, *, debug: Path = _DEBUG) -> ElfFile | None:
    """The functions of the file `fd`, or of what `debug` has for its build id; None for another kind."""
    file = _Pieces(fd)
    head = _head(file)
    if head is None:
        return None
    table = _functions(file, list(file.structs(_SECTION, *head.sections)), head.build_id, debug)
    return ElfFile(table, head.segments, head.build_id)


def read_build_id(fd: int) -> str:
    """The build id of the file `fd`; "" where it has none, or is of another kind."""
    head = _head(_Pieces(fd))
    return head.build_id if head else ""


def _head(file: _Pieces) -> _Head | None:
    head = file.read(0, _HEADER.size)
    if head[:6] != b"\x7fELF\x02\x01":
        return None
    fields = _HEADER.unpack(head)
    programs_at, sections_at, (entry, programs, section_entry, sections) = fields[5], fields[6], fields[9:13]
    if entry != _PROGRAM.size or (sections and section_entry != _SECTION.size):
        return None
    loaded, build_id = [], ""
    for kind, _, offset, address, _, size, _, _ in file.structs(_PROGRAM, programs_at, programs):
        if kind == _PT_LOAD:
            loaded.append((offset, size, address))
        elif kind == _PT_NOTE:
            build_id = build_id or _build_id(file.read(offset, min(size, 1 << 16)))
    return _Head(tuple(loaded), build_id, (sections_at, sections))


def _functions(file: _Pieces, sections: list[tuple[int, ...]], build_id: str, debug: Path) -> SymbolTable:
    there = {section[1] for section in sections}
    if _SHT_SYMTAB not in there and build_id:
        separate = _debug_table(debug / build_id[:2] / f"{build_id[2:]}.debug")
        if separate is not None:
            return separate
    parts = [
        part for kind in (_SHT_SYMTAB, _SHT_DYNSYM) for part in _tables(file, sections, kind) if len(part[0])
    ]
    if not parts:
        return empty_table()
    symbols = np.concatenate([rows for rows, _ in parts])
    shifts = np.cumsum([0, *(len(names) for _, names in parts[:-1])])
    name_at = symbols["name"] + np.repeat(shifts, [len(rows) for rows, _ in parts])
    return SymbolTable(symbols["value"], symbols["size"], name_at, b"".join(names for _, names in parts))


def _debug_table(path: Path) -> SymbolTable | None:
    try:
        with path.open("rb") as file:
            made = read_elf(file.fileno(), debug=Path(os.devnull))
    except OSError:
        return None
    return made.table if made is not None and len(made.table) else None


def _tables(
    file: _Pieces, sections: list[tuple[int, ...]], wanted: int
) -> Iterator[tuple[np.ndarray[tuple[int], np.dtype[np.void]], bytes]]:
    """(functions, names) of each symbol table of that type."""
    for _, kind, _, _, offset, size, link, _, _, entry in sections:
        if kind != wanted or entry != _SYMBOL.itemsize or link >= len(sections):
            continue
        names = file.read(sections[link][4], sections[link][5])
        data = file.read(offset, size - size % _SYMBOL.itemsize)
        if not names or not data:
            continue
        rows = np.frombuffer(data, _SYMBOL)
        sort = rows["info"] & 0xF
        good = ((sort == _FUNC) | (sort == _IFUNC)) & (rows["section"] != 0) & (rows["value"] != 0)
        # A terminator of our own: the last name may lack one.
        yield rows[good & (rows["name"] < len(names))], names + b"\0"


def _build_id(notes: bytes) -> str:
    at = 0
    while at + 12 <= len(notes):
        name_size, size, kind = struct.unpack_from("<III", notes, at)
        content = at + 12 + -(-name_size // 4) * 4
        if kind == _BUILD_ID and notes[at + 12 : at + 16] == b"GNU\0":
            return notes[content : content + size].hex()
        at = content + -(-size // 4) * 4
    return ""


class ElfFiles:
    """Files that were read, the last used ones kept: at most `most_files`, and tables of `most_bytes`."""

    def __init__(self, most_files: int = 512, most_bytes: int = 32 << 20) -> None:
        self._most_files, self._most_bytes = most_files, most_bytes
        self._kept: OrderedDict[tuple[str, int], ElfFile | None] = OrderedDict()
        self._build_ids: OrderedDict[tuple[str, int], str] = OrderedDict()
        self.memory_bytes = 0

    def build_id(self, path: str, inode: int) -> str:
        """That of the file of that path and inode, without its symbols: most files of a process are in no
        stack."""
        key = path, inode
        if key not in self._build_ids:
            self._build_ids[key] = _open(path, inode, read_build_id) or ""
            if len(self._build_ids) > _MOST_BUILD_IDS:
                self._build_ids.popitem(last=False)
        self._build_ids.move_to_end(key)
        return self._build_ids[key]

    def get(self, path: str, inode: int) -> ElfFile | None:
        """The file of that path and inode; None where we can't read it, or another lies there now."""
        key = path, inode
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        made = _open(path, inode, read_elf)
        self._kept[key] = made
        self.memory_bytes += made.table.memory_bytes if made else 0
        while len(self._kept) > 1 and (
            len(self._kept) > self._most_files or self.memory_bytes > self._most_bytes
        ):
            _, old = self._kept.popitem(last=False)
            self.memory_bytes -= old.table.memory_bytes if old else 0
        return made


def _open(path: str, inode: int, read: Callable[[int], T | None]) -> T | None:
    try:
        # Not blocking: what lies there now may be a pipe.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError):
        return None
    try:
        # A container's file of the same name has another inode.
        return read(fd) if os.fstat(fd).st_ino == inode else None
    except OSError:
        return None
    finally:
        os.close(fd)

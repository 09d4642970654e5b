"""What is inside a `.bpf.o`, read without libbpf and without a kernel: programs, maps, global variables.

made = bpf_object.read(Path("hits.bpf.o"))
key, value = made.layouts_of("hits")     # to compare with a schema before the kernel sees the object
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bpfleet import btf, elf
from bpfleet.attach_points import AttachPoint, attach_point
from bpfleet.btf import Btf, Kind, MapDef
from bpfleet.checked_bytes import printable
from bpfleet.dwarf_structs import Debug
from bpfleet.errors import ObjectError
from bpfleet.layout import Layout, Leaf
from bpfleet.packing import Value, leaf_value

__all__ = ["BpfObject", "Program", "parse", "read"]

MAX_BYTES = 256 << 20
"""A larger file is refused unread; the largest objects in use have a few megabytes."""

_INSTRUCTION = 8
_GLOBALS = (".bss", ".data", ".rodata")
_NOTHING = Layout(0, ())
_REMEDY = "give the path of an object made by clang -g -O2 -target bpf"


@dataclass(frozen=True, slots=True)
class Program:
    """One program: its C function, its section, its instructions and where it goes.

    Instructions are 8-byte slots of the program itself; functions of `.text` that it calls are not counted.
    """

    name: str
    section: str
    instructions: int
    attach: AttachPoint


@dataclass(frozen=True, slots=True)
class BpfObject:
    """An object file's content. Maps and sections of global variables are by name.

    `globals` has `.bss`, `.data`, `.rodata` and the like of `.data.…`; `knobs` are the variables of
    `.rodata` that are to be set before loading (`const volatile`). `kernel_version` is what a `version`
    section asks for. Without BTF there are neither maps nor globals.
    """

    path: str
    sections: tuple[elf.Section, ...]
    programs: tuple[Program, ...]
    maps: Mapping[str, MapDef]
    globals: Mapping[str, Layout]
    knobs: frozenset[str]
    license: str
    kernel_version: int | None
    has_btf: bool
    core_relocations: int
    _layouts: Mapping[str, tuple[Layout | None, Layout | None]] = field(repr=False)
    _types: Btf | None = field(repr=False, default=None)
    _debug: Debug | None = field(repr=False, default=None)

    def layouts_of(self, map_name: str) -> tuple[Layout | None, Layout | None]:
        """Layouts of a map's key and value; None where the object tells no type, or has no such map.

        For a section of global variables (`.bss`) the key is empty and the value has a leaf per variable.
        """
        if map_name in self.globals:
            return _NOTHING, self.globals[map_name]
        return self._layouts.get(map_name, (None, None))

    def calls(self, helper: int) -> bool:
        """Whether any of its code calls the kernel's helper function of that number."""
        call = struct.pack("<BBhi", 0x85, 0, 0, helper)
        return any(
            call in (one.data[at : at + _INSTRUCTION] for at in range(0, len(one.data), _INSTRUCTION))
            for one in self.sections
            if one.flags & elf.SHF_EXECINSTR
        )

    def struct_layout(self, name: str) -> Layout | None:
        """The layout of a struct or typedef, as a map's value; None where the object has no such type.

        What BTF leaves out is looked up in the debugging information, where that was not stripped."""
        if self._types is None:
            return None
        for kind in (Kind.STRUCT, Kind.TYPEDEF):
            found = self._types.find(name, kind)
            if found is not None:
                return self._types.layout(found.id, part="value")
        return None if self._debug is None else self._debug.struct_layout(name)

    def pointed_structs(self) -> Mapping[str, str]:
        """Global variables that point to a struct, as in `const struct event *unused`, and its name."""
        return {} if self._types is None else self._types.pointed_structs()

    def local_structs(self) -> tuple[str, ...]:
        """Structs that variables and arguments are, or point to, where the debugging information tells."""
        return () if self._debug is None else self._debug.names()

    def initial_value(self, section: str, leaf: Leaf) -> Value | None:
        """What the file sets a global variable to; None where it says nothing (`.bss` is zeros)."""
        found = next((one for one in self.sections if one.name == section), None)
        raw = found.data[leaf.offset : leaf.offset + leaf.size] if found else b""
        return leaf_value(raw, leaf) if len(raw) == leaf.size else None


def read(path: Path) -> BpfObject:
    """Read an object file. Raises ObjectError where there is none or it is malformed."""
    try:
        status = path.stat()
        # Looked at before opening: opening a pipe would wait for its writer.
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_BYTES:
            what = "the file is too large" if stat.S_ISREG(status.st_mode) else "this is not a file"
            raise ObjectError(what, where=str(path), remedy=_REMEDY)
        data = path.read_bytes()
    except OSError as error:
        raise ObjectError(
            f"the object can't be read: {error.strerror}", where=str(path), remedy=_REMEDY
        ) from None
    return parse(data, str(path))


def parse(data: bytes, name: str) -> BpfObject:
    """Read an object file's bytes; `name` stands for it in errors. Raises ObjectError."""
    file = elf.read(data, name)
    types_section, extra = file.section(".BTF"), file.section(".BTF.ext")
    types = btf.parse(types_section.data, name) if types_section else None
    maps = types.maps() if types else ()
    globals_, knobs = _globals(file, types) if types else ({}, frozenset())
    inner = [one.inner for one in maps if one.inner is not None]
    layouts = {one.name: _layouts(types, one) for one in (*maps, *inner)} if types else {}
    version = file.section("version")
    license = file.section("license")
    return BpfObject(
        name,
        file.sections,
        _programs(file),
        {one.name: one for one in maps},
        globals_,
        knobs,
        printable(license.data.partition(b"\0")[0]) if license else "",
        struct.unpack("<I", version.data)[0] if version and len(version.data) == 4 else None,
        types is not None,
        btf.core_relocations(extra.data, name) if extra else 0,
        layouts,
        types,
        Debug({one.name: one.data for one in file.sections if one.name.startswith(".debug_")}, name),
    )


def _programs(file: elf.Elf) -> tuple[Program, ...]:
    """As libbpf finds them: global functions of sections with code; `.text` holds what they call."""
    found = []
    for symbol in file.symbols:
        section = file.sections[symbol.section]
        is_code = section.type == elf.SHT_PROGBITS and section.flags & elf.SHF_EXECINSTR
        if not is_code or section.name == ".text" or symbol.type != "func" or symbol.binding == "local":
            continue
        if symbol.size % _INSTRUCTION or symbol.value + symbol.size > section.size:
            raise ObjectError(
                f"program {symbol.name!r} of {symbol.size} bytes is not within its section",
                where=f"{file.name}: section {section.name}",
                remedy="the file is cut off or damaged: compile or copy it again",
            )
        count = symbol.size // _INSTRUCTION
        found.append(Program(symbol.name, section.name, count, attach_point(section.name)))
    return tuple(found)


def _globals(file: elf.Elf, types: Btf) -> tuple[dict[str, Layout], frozenset[str]]:
    places: dict[int, dict[str, int]] = {}
    for symbol in file.symbols:
        if symbol.type == "object":
            places.setdefault(symbol.section, {})[symbol.name] = symbol.value
    data_sections = types.data_sections()
    found: dict[str, Layout] = {}
    knobs: frozenset[str] = frozenset()
    for section in file.sections:
        described = data_sections.get(section.name)
        if described is None or not _holds_globals(section.name) or section.name in found:
            continue
        offsets = places.get(section.index, {})
        found[section.name] = types.globals(described, section.size, offsets)
        if section.name.startswith(".rodata"):
            knobs |= types.knobs(described)
    return found, knobs


def _holds_globals(section: str) -> bool:
    return any(section == one or section.startswith(f"{one}.") for one in _GLOBALS)


def _layouts(types: Btf, one: MapDef) -> tuple[Layout | None, Layout | None]:
    key = types.layout(one.key_type, part="key") if one.key_type is not None else None
    value = types.layout(one.value_type, part="value") if one.value_type is not None else None
    if key is None and value is not None and not one.key_size:
        key = _NOTHING  # a queue or a stack
    return key, value

"""Objects compiled for tests from tests/objects/*.bpf.c, and what others say is in them.

Debian packages: clang, libbpf-dev (headers), llvm (llvm-objdump, llvm-objcopy, llvm-strip), bpftool, libbpf1
and binutils (readelf).
"""

from __future__ import annotations

import ctypes
import json
import platform
import struct
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bpfleet import btf, elf
from bpfleet.btf import Btf
from bpfleet.errors import ObjectError

__all__ = [
    "VMLINUX",
    "BtfText",
    "Objects",
    "bpftool_types",
    "btf_section",
    "by_hand",
    "libbpf_knows_section",
    "libbpf_maps",
    "libbpf_programs",
    "output_of",
    "raises_nothing_else",
    "types_of",
]

VMLINUX = Path("/sys/kernel/btf/vmlinux")
_SOURCES = Path(__file__).with_name("objects")
_LIBBPF = ctypes.CDLL("libbpf.so.1")


class Objects:
    """`objects("maps")` compiles tests/objects/maps.bpf.c into `folder`, once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, name: str) -> Path:
        made = self.folder / f"{name}.bpf.o"
        return made if made.exists() else self.compile((_SOURCES / f"{name}.bpf.c").read_text(), name)

    def compile(self, source: str, name: str, *flags: str) -> Path:
        """Compile C text."""
        path, made = self.folder / f"{name}.bpf.c", self.folder / f"{name}.bpf.o"
        path.write_text(source)
        machine = platform.machine()
        target = ["-g", "-O2", "-target", "bpf", "-mcpu=v3", "-D__TARGET_ARCH_x86"]
        include = f"-I/usr/include/{machine}-linux-gnu"
        output_of("clang", *target, include, *flags, "-c", str(path), "-o", str(made))
        return made


def output_of(*command: str) -> str:
    """What a command prints; it must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def raises_nothing_else(action: Callable[[], object], name: str) -> bool:
    """Whether `action` succeeds; an ObjectError must be about `name`, and any other exception goes on."""
    try:
        action()
    except ObjectError as error:
        where = error.where
    else:
        return True
    assert where.startswith(f"{name}: ")
    return False


def btf_section(path: Path) -> bytes:
    """The bytes of an object's `.BTF` section."""
    section = elf.read(path.read_bytes(), path.name).section(".BTF")
    assert section is not None
    return section.data


def types_of(path: Path) -> Btf:
    """An object's types."""
    return btf.parse(btf_section(path), path.name)


def bpftool_types(path: Path) -> list[dict[str, Any]]:
    """Every type of a file's BTF, by bpftool."""
    types: list[dict[str, Any]] = json.loads(
        output_of("bpftool", "-j", "btf", "dump", "file", str(path), "format", "raw")
    )["types"]
    return types


@dataclass(frozen=True)
class LibbpfMap:
    """A map as libbpf reads it from a file."""

    name: str
    type: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int
    extra: int
    initial: bytes | None


@dataclass(frozen=True)
class LibbpfProgram:
    """A program as libbpf reads it from a file."""

    name: str
    section: str
    instructions: int
    autoload: bool


def _call(name: str, result: Any, *arguments: Any) -> Any:
    function = getattr(_LIBBPF, name)
    function.restype = result
    return function(*arguments)


def _opened(path: Path) -> ctypes.c_void_p:
    handle = _call("bpf_object__open_file", ctypes.c_void_p, str(path).encode(), None)
    assert handle, f"libbpf can't open {path}"
    return ctypes.c_void_p(handle)


def _each(what: str, opened: ctypes.c_void_p) -> Iterator[ctypes.c_void_p]:
    handle = None
    while handle := _call(f"bpf_object__next_{what}", ctypes.c_void_p, opened, ctypes.c_void_p(handle)):
        yield ctypes.c_void_p(handle)


def libbpf_maps(path: Path) -> list[LibbpfMap]:
    """Every map of an object, sections of globals included, by libbpf; nothing is loaded."""
    opened = _opened(path)
    found = []
    for one in _each("map", opened):
        name = _call("bpf_map__name", ctypes.c_char_p, one).decode()
        if _call("bpf_map__is_internal", ctypes.c_bool, one):
            name = name[name.index(".") :]
        size = ctypes.c_size_t()
        at = _call("bpf_map__initial_value", ctypes.c_void_p, one, ctypes.byref(size))
        found.append(
            LibbpfMap(
                name,
                type=_call("bpf_map__type", ctypes.c_uint32, one),
                key_size=_call("bpf_map__key_size", ctypes.c_uint32, one),
                value_size=_call("bpf_map__value_size", ctypes.c_uint32, one),
                max_entries=_call("bpf_map__max_entries", ctypes.c_uint32, one),
                flags=_call("bpf_map__map_flags", ctypes.c_uint32, one),
                extra=_call("bpf_map__map_extra", ctypes.c_uint64, one),
                initial=ctypes.string_at(at, size.value) if at else None,
            )
        )
    _call("bpf_object__close", None, opened)
    return found


def libbpf_programs(path: Path) -> list[LibbpfProgram]:
    """Every program of an object, by libbpf; nothing is loaded."""
    opened = _opened(path)
    found = [
        LibbpfProgram(
            _call("bpf_program__name", ctypes.c_char_p, one).decode(),
            _call("bpf_program__section_name", ctypes.c_char_p, one).decode(),
            _call("bpf_program__insn_cnt", ctypes.c_size_t, one),
            _call("bpf_program__autoload", ctypes.c_bool, one),
        )
        for one in _each("program", opened)
    ]
    _call("bpf_object__close", None, opened)
    return found


def libbpf_knows_section(name: str) -> bool:
    """Whether libbpf has a program type for a section's name."""
    kind, attach = ctypes.c_int(), ctypes.c_int()
    result: int = _call(
        "libbpf_prog_type_by_name", ctypes.c_int, name.encode(), ctypes.byref(kind), ctypes.byref(attach)
    )
    return result == 0


class BtfText:
    """BTF written by hand, for what the installed compiler does not make. Types are numbered from 1."""

    def __init__(self) -> None:
        self.types = b""
        self.strings = b"\0"

    def name(self, text: str) -> int:
        """The offset of a new string."""
        at = len(self.strings)
        self.strings += text.encode() + b"\0"
        return at if text else 0

    def add(self, kind: int, name: str, last: int, *words: int, length: int = 0, flag: bool = False) -> None:
        """A type: `last` is its size or the type it refers to; `words` follow it."""
        info = flag << 31 | kind << 24 | length
        self.types += struct.pack("<III", self.name(name), info, last)
        self.types += b"".join(struct.pack("<I", word & 0xFFFFFFFF) for word in words)

    def data(self) -> bytes:
        """The bytes of the section."""
        header = struct.pack(
            "<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(self.types), len(self.types), len(self.strings)
        )
        return header + self.types + self.strings


def by_hand(build: BtfText) -> Btf:
    """The types written by hand."""
    return btf.parse(build.data(), "by hand")

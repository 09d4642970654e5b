"""Objects that others made: those inside Debian's libbpf-tools, whose programs carry them as data."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

__all__ = ["FEW", "TOOLS", "object_in", "unpack"]

TOOLS = (
    "biolatency",
    "biostacks",
    "cachestat",
    "cpudist",
    "drsnoop",
    "execsnoop",
    "exitsnoop",
    "filelife",
    "hardirqs",
    "llcstat",
    "numamove",
    "opensnoop",
    "readahead",
    "runqlat",
    "runqslower",
    "softirqs",
    "syscount",
    "tcpconnlat",
    "tcpconnect",
    "tcprtt",
    "vfsstat",
)
FEW = ("biolatency", "drsnoop", "execsnoop", "runqlat", "softirqs", "vfsstat")
"""Those that are tried where a loader takes ten seconds: on an emulated processor."""
_EM_BPF = 247


def object_in(program: Path) -> bytes | None:
    """The first BPF object inside a program's file; None where there is none.

    Layout: `Elf64_Ehdr` and `Elf64_Shdr` of elf(5).
    """
    data = program.read_bytes()
    start = 0
    while (start := data.find(b"\x7fELF", start + 1)) > 0:
        head = data[start : start + 64]
        if len(head) < 64 or struct.unpack_from("<H", head, 18)[0] != _EM_BPF:
            continue
        (offset,) = struct.unpack_from("<Q", head, 40)
        size, number = struct.unpack_from("<HH", head, 58)
        end = offset + size * number
        for index in range(number):
            section = data[start + offset + index * size :][:size]
            kind, at, length = (
                struct.unpack_from("<I", section, 4)[0],
                *struct.unpack_from("<QQ", section, 24),
            )
            end = max(end, at + (0 if kind == 8 else length))  # SHT_NOBITS takes no room
        return data[start : start + end]
    return None


def unpack(folder: Path, tools: Sequence[str]) -> dict[str, Path]:
    """Tools' objects as files, by the tools' names."""
    found = {}
    for tool in tools:
        program = Path("/usr/sbin") / tool
        content = object_in(program) if program.exists() else None
        if content is not None:
            found[tool] = folder / f"{tool}.bpf.o"
            found[tool].write_bytes(content)
    return found

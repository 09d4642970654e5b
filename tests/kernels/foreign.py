"""Objects that others made: those inside Debian's libbpf-tools, whose programs carry them as data."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

__all__ = ["FEW", "TOOLS", "object_in", "unpack"]

TOOLS = (
    "bashreadline",
    "bindsnoop",
    "biolatency",
    "biopattern",
    "biosnoop",
    "biostacks",
    "biotop",
    "bitesize",
    "btrfsdist",
    "btrfsslower",
    "cachestat",
    "capable",
    "cpudist",
    "cpufreq",
    "drsnoop",
    "execsnoop",
    "exitsnoop",
    "ext4dist",
    "ext4slower",
    "filelife",
    "filetop",
    "fsdist",
    "fsslower",
    "funclatency",
    "gethostlatency",
    "hardirqs",
    "javagc",
    "killsnoop",
    "klockstat",
    "ksnoop",
    "llcstat",
    "mdflush",
    "mountsnoop",
    "nfsdist",
    "nfsslower",
    "numamove",
    "offcputime",
    "oomkill",
    "opensnoop",
    "readahead",
    "runqlat",
    "runqlen",
    "runqslower",
    "sigsnoop",
    "slabratetop",
    "softirqs",
    "solisten",
    "statsnoop",
    "syscount",
    "tcpconnect",
    "tcpconnlat",
    "tcplife",
    "tcprtt",
    "tcpstates",
    "tcpsynbl",
    "tcptop",
    "tcptracer",
    "vfsstat",
    "wakeuptime",
    "xfsdist",
    "xfsslower",
)
FEW = ("biolatency", "drsnoop", "execsnoop", "runqlat", "softirqs", "vfsstat")
"""Those that are tried on an emulated processor, where a loader takes ten seconds."""
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

"""What stands in for kernel headers where a host has none: bcc will not compile without a tree of them.

Two trees can be made. The *plain* one has numbers and the registers of a probe, and no kernel struct: what
compiles with it can read nothing wrongly. The *typed* one has the C dump of the running kernel's BTF, so a
program reads kernel structs by this kernel's own layout. Every other kernel header that a program asks for
is an empty file, since its types are in the dump and its macros in `bpfleet/bcc_constants.h`.

Measured on Linux 6.18 with bcc 0.26: 0.26 s to compile with the plain tree, 1.45 s with the typed one, 0.2 s
for the plain one to fail. So the plain tree is tried first (`bpfleet.loader.bcc`).
"""

from __future__ import annotations

import errno
import os
import platform
import re
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files
from pathlib import Path

from bpfleet.loader.btf_dump import KERNEL_BTF, write_kernel_types

__all__ = ["Includes", "header_tree", "includes_of", "installed_headers", "kernel_types", "vmlinux_folder"]

_CACHE = Path("/var/cache/bpfleet/headers")
_DUMP_FORMAT = 2
"""Part of the cache's key: raise it when what `write_kernel_types` writes changes."""

_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"\n]+)[>"]', re.MULTILINE)
_KERNEL_HEADER = re.compile(
    r"(uapi/)?(linux|asm|asm-generic|net|trace|scsi|crypto|rdma|drm|sound|acpi|vdso|video|xen|kvm|generated|block)"
    r"(/[A-Za-z0-9_][A-Za-z0-9_.+-]*)+\Z"
)
_ALWAYS_ASKED_FOR = frozenset(
    (
        "asm/page.h",
        "linux/bpf_common.h",
        "linux/log2.h",
        "linux/types.h",
        "uapi/linux/bpf.h",
        "uapi/linux/if_ether.h",
        "uapi/linux/if_packet.h",
        "uapi/linux/ptrace.h",
    )
)
"""What bcc's own headers include."""
_WITH_SOCKETS = re.compile(r"net/(sock|inet_sock|inet_connection_sock|tcp|udp)\.h\Z|linux/(tcp|udp)\.h\Z")
"""Headers by which a program gets at `sk_family`, `inet_dport` and the like, which are macros."""


@dataclass(frozen=True, slots=True)
class Includes:
    """What a source includes: the kernel headers it asks for by name, and all text of its own."""

    kernel: frozenset[str]
    text: str


def installed_headers() -> Path | None:
    """Where headers that match the running kernel are, if bcc can find them by itself.

    That is `BCC_KERNEL_SOURCE` where it is set, else `/lib/modules/RELEASE/build`.
    """
    named = os.environ.get("BCC_KERNEL_SOURCE")
    place = Path(named) if named else Path("/lib/modules", os.uname().release, "build")
    return place if (place / "include/linux/kconfig.h").exists() else None


def includes_of(text: str, folders: Sequence[Path]) -> Includes:
    """Follow the includes of `text` through `folders`; a file found there is part of the source."""
    kernel: set[str] = set()
    texts: list[str] = []
    waiting, seen = [text], set[Path]()
    while waiting:
        one = waiting.pop()
        texts.append(one)
        for quote, name in _INCLUDE.findall(one):
            path = next((folder / name for folder in folders if (folder / name).is_file()), None)
            if path is None:
                # A name in quotes is the author's own file: clang says best that it is missing.
                if quote == "<" and _KERNEL_HEADER.match(name):
                    kernel.add(name)
            elif path not in seen:
                seen.add(path)
                waiting.append(path.read_text(errors="replace"))
    return Includes(frozenset(kernel), "\n".join(texts))


@contextmanager
def header_tree(asked_for: frozenset[str], *, typed: bool) -> Iterator[Path]:
    """A tree of headers for one compilation, with `BCC_KERNEL_SOURCE` naming it; gone afterwards.

    `asked_for` are names such as `linux/sched.h`. Raises UnsupportedError where `typed` and the kernel has
    no BTF.
    """
    before = os.environ.get("BCC_KERNEL_SOURCE")
    tree = Path(tempfile.mkdtemp(prefix="bpfleet-headers-"))
    try:
        for name in asked_for | _ALWAYS_ASKED_FOR:
            _write(tree / "include" / name, _ours("bcc_socket_names.h") if _WITH_SOCKETS.match(name) else "")
        _write(tree / "include/linux/version.h", _version())
        # bcc includes this file before anything else, its own headers too.
        _write(tree / "include/linux/kconfig.h", _kconfig(_types_for(tree) if typed else None))
        os.environ["BCC_KERNEL_SOURCE"] = str(tree)
        yield tree
    finally:
        if before is None:
            os.environ.pop("BCC_KERNEL_SOURCE", None)
        else:
            os.environ["BCC_KERNEL_SOURCE"] = before
        shutil.rmtree(tree, ignore_errors=True)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _kconfig(types: Path | None) -> str:
    parts = [
        "#define CONFIG_BPF_SYSCALL 1",
        "#define CONFIG_64BIT 1",
        f"#define PAGE_SIZE {os.sysconf('SC_PAGESIZE')}",
    ]
    if types is None:
        parts.append(_ours("bcc_plain_types.h"))
    else:
        parts += [
            # The dump has all of the kernel's bpf.h; bcc's own copy is left out by these, its guards.
            "#define __LINUX_BPF_H__",
            "#define _UAPI__LINUX_BPF_H__",
            f'#include "{types}"',
            _ours("bcc_helper_numbers.h"),
        ]
    return "\n".join([*parts, _ours("bcc_constants.h"), *_numbers(), ""])


def _ours(name: str) -> str:
    return (files("bpfleet_bpf") / "include/bpfleet" / name).read_text()


def _numbers() -> Iterator[str]:
    """Macros that user space and kernel share, from this system's own tables."""
    # SIGRT*: the C library keeps the first few for itself, so its numbers are not the kernel's.
    table = {one.name: int(one) for one in signal.Signals if not one.name.startswith("SIGRT")}
    for name, number in (*vars(errno).items(), *vars(socket).items()):
        if re.match(r"E[A-Z0-9]+\Z|AF_|SOCK_|IPPROTO_", name) and isinstance(number, int):
            table[name] = int(number)
    return (f"#define {name} {number}" for name, number in sorted(table.items()))


def _version() -> str:
    numbers = [int(part) for part in re.findall(r"\d+", platform.release())[:3]]
    major, minor, patch = (*numbers, 0, 0, 0)[:3]
    return (
        "#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + ((c) > 255 ? 255 : (c)))\n"
        f"#define LINUX_VERSION_CODE KERNEL_VERSION({major}, {minor}, {patch})\n"
    )


def _types_for(tree: Path) -> Path:
    try:
        return kernel_types()
    except OSError:
        # A read-only root, or a folder that others may write to: what they put there is not compiled.
        write_kernel_types(tree / "kernel_types.h")
        return tree / "kernel_types.h"


def kernel_types(cache: Path = _CACHE) -> Path:
    """The running kernel's types as C; made once per kernel and kept in `cache`.

    Raises UnsupportedError where the kernel has no BTF, OSError where `cache` can't be written or others can
    write to it.
    """
    release = re.sub(r"[^A-Za-z0-9._+-]", "_", os.uname().release)
    digest = sha256(KERNEL_BTF.read_bytes()) if KERNEL_BTF.exists() else sha256()
    digest.update(str(_DUMP_FORMAT).encode())
    folder = cache / f"{release}-{digest.hexdigest()[:16]}"
    cache.mkdir(mode=0o755, parents=True, exist_ok=True)
    if not _only_we_write(cache):
        raise PermissionError(errno.EPERM, "others can write to it", str(cache))
    if not (folder / "kernel_types.h").exists():
        _make(folder, cache)
    return (folder / "kernel_types.h").resolve(strict=True)


_VMLINUX = """\
#ifndef __VMLINUX_H__
#define __VMLINUX_H__
#ifndef BPF_NO_PRESERVE_ACCESS_INDEX
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
#endif
#include "kernel_types.h"
#ifndef BPF_NO_PRESERVE_ACCESS_INDEX
#pragma clang attribute pop
#endif
#endif
"""


def vmlinux_folder(cache: Path = _CACHE) -> Path:
    """A folder with the `vmlinux.h` of the running kernel, as `bpftool btf dump` would write it.

    Raises as `kernel_types` does.
    """
    folder = kernel_types(cache).parent
    made = folder / "vmlinux.h"
    if not made.exists():
        draft = folder / f".vmlinux.h.{os.getpid()}"
        draft.write_text(_VMLINUX)
        draft.rename(made)
    return folder


def _make(folder: Path, cache: Path) -> None:
    """Write into a folder aside, then rename: another loader sees all of it or nothing."""
    aside = Path(tempfile.mkdtemp(prefix=".making-", dir=cache))
    try:
        write_kernel_types(aside / "kernel_types.h")
        aside.chmod(0o755)
        (aside / "kernel_types.h").chmod(0o644)
        try:
            aside.rename(folder)
        except OSError as error:
            # Another loader was first; its dump is of the same kernel.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _only_we_write(folder: Path) -> bool:
    status = folder.stat()
    return status.st_uid in (0, os.geteuid()) and not status.st_mode & 0o022

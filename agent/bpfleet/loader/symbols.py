"""Where a library lies, and which of its symbols are like a misspelt one."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

from bpfleet.errors import AttachError
from bpfleet.spec import Attach

__all__ = ["binary_of", "library_path", "mapped_files"]

_PROGRAMS = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def binary_of(wanted: Attach, program: str) -> Path:
    """The file that an attach place means; for one process the copy that this process uses."""
    if not wanted.pid:
        return library_path(wanted.target, program)
    root = Path(f"/proc/{wanted.pid}/root")
    try:
        root.stat()
    except OSError as error:
        gone = isinstance(error, FileNotFoundError)
        raise AttachError(
            f"program {program!r}: "
            + (f"there is no process {wanted.pid}" if gone else f"process {wanted.pid}: {error.strerror}"),
            where=f"attach list, pid {wanted.pid}",
            remedy="name a process that runs; without pid every process is meant",
        ) from None
    if "/" in wanted.target:
        return library_path(f"{root}{Path('/') / wanted.target}", program)
    found = mapped_files(wanted.pid, wanted.target)
    if not found:
        raise AttachError(
            f"program {program!r}: process {wanted.pid} does not use {wanted.target!r}",
            where=f"{wanted.kind} {wanted.target}",
            remedy=f"/proc/{wanted.pid}/maps lists the files that it uses",
        )
    return found[0]


def mapped_files(pid: int, target: str) -> list[Path]:
    """The files that a process runs code of and that `target` (`c`, `libc.so.6`, `bash`) means, by a path
    that leads there from here; none where the process has gone."""
    wanted = re.compile(rf"{re.escape(_library(target))}([.-].*)?\Z")
    found: dict[str, Path] = {}
    try:
        lines = Path(f"/proc/{pid}/maps").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return []
    for line in lines:
        fields = line.split(None, 5)
        if len(fields) == 6 and "x" in fields[1] and fields[5].startswith("/"):
            name = os.path.basename(fields[5])
            if wanted.match(name) or name == target:
                found[fields[5]] = Path(f"/proc/{pid}/root{fields[5]}")
    return [path for path in found.values() if path.exists()]


def _library(target: str) -> str:
    return target if target.startswith("lib") else f"lib{target}.so"


def library_path(target: str, program: str) -> Path:
    """The file that `target` names: a path, or a library such as `c` (libc) as the dynamic linker
    finds it."""
    if "/" in target:
        path = Path(target)
        if path.exists():
            return path
        raise AttachError(
            f"program {program!r}: there is no file {target}",
            where=f"target {target!r}",
            remedy="give the path of the binary or library on this host",
        )
    wanted = _library(target)
    for line in _known_libraries():
        name, _, path_text = line.strip().partition(" => ")
        if name.startswith(wanted) and ("x86-64" in name or "AArch64" in name):
            return Path(path_text)
    found = shutil.which(target, path=_PROGRAMS)
    if found:
        return Path(found)
    raise AttachError(
        f"program {program!r}: there is no library or program {target!r} on this host",
        where=f"target {target!r}",
        remedy="/sbin/ldconfig -p lists the libraries; give a path where it is elsewhere",
    )


@cache
def _known_libraries() -> list[str]:
    """What the dynamic linker knows, a line each: `libc.so.6 (libc6,x86-64) => /lib/…`."""
    listed = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=False)
    return listed.stdout.splitlines()

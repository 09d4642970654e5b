"""Where a library lies, and which of its symbols are like a misspelt one."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

from bpfleet.errors import AttachError

__all__ = ["library_path"]


def library_path(target: str, program: str) -> Path:
    """The file that `target` names: a path, or a library such as `c` (libc) as the dynamic linker
    finds it."""
    if "/" in target:
        path = Path(target)
        if path.exists():
            return path
        raise AttachError(
            f"program {program!r}: there is no file {target}",
            where=f"attach list, target {target!r}",
            remedy="give the path of the binary or library on this host",
        )
    wanted = target if target.startswith("lib") else f"lib{target}.so"
    for line in _known_libraries():
        name, _, path_text = line.strip().partition(" => ")
        if name.startswith(wanted) and ("x86-64" in name or "AArch64" in name):
            return Path(path_text)
    raise AttachError(
        f"program {program!r}: there is no library {target!r} on this host",
        where=f"attach list, target {target!r}",
        remedy="/sbin/ldconfig -p lists the libraries; give a path where it is elsewhere",
    )


@cache
def _known_libraries() -> list[str]:
    """What the dynamic linker knows, a line each: `libc.so.6 (libc6,x86-64) => /lib/…`."""
    listed = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=False)
    return listed.stdout.splitlines()

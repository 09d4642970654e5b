"""The worker's way to the code, where a parent directory keeps its user out (`/root` is 0700).

In a mount namespace of the worker's own, the directory that bars the way is covered by an empty one, and only
what the worker needs is bound into it at the same place. It sees less than before, not more.
"""

from __future__ import annotations

import ctypes
import os
import stat
import sys
from collections.abc import Iterable
from pathlib import Path

from bpfleet.users import User

__all__ = ["barred", "needed_paths", "open_the_way", "unreadable"]

_libc = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNS = 0x20000
_MS_NOSUID, _MS_NODEV, _MS_BIND, _MS_REC, _MS_PRIVATE = 2, 4, 4096, 16384, 1 << 18


def needed_paths(*more: Path) -> list[Path]:
    """Where the interpreter and the code lie, and `more`, of which some may not be there."""
    places = [sys.prefix, sys.base_prefix, sys.executable, *sys.path]
    there = {Path(place).absolute() for place in places if place and os.path.exists(place)}
    return sorted(there | {path.absolute() for path in more})


def barred(paths: Iterable[Path], user: User) -> dict[Path, list[Path]]:
    """The directories that `user` can't pass, each with those of `paths` that lie behind it. One behind which
    none is has an empty list: then `user` sees that, instead of a door that is shut."""
    found: dict[Path, list[Path]] = {}
    for path in paths:
        for parent in reversed(path.parents):
            if not parent.exists():
                break
            if not _may_pass(parent, user):
                behind = found.setdefault(parent, [])
                if path.exists():
                    behind.append(path)
                break
    return found


def unreadable(user: User) -> list[Path]:
    """The folders of the interpreter and the code that `user` may not look into: no mount opens those."""
    package = [Path(__file__).parent.parent, Path(sys.prefix), Path(sys.base_prefix)]
    return [path for path in package if not _may_pass(path, user)]


def open_the_way(behind: dict[Path, list[Path]]) -> None:
    """Rearrange this process's mounts as above; OSError where the kernel refuses."""
    if not behind:
        return
    if _libc.unshare(_CLONE_NEWNS):
        raise _failure("unshare")
    _mount("none", "/", "", _MS_REC | _MS_PRIVATE)
    for bar, paths in behind.items():
        tops = [path for path in paths if not any(other in path.parents for other in paths)]
        opened = [(path, os.open(path, os.O_PATH)) for path in tops]
        _mount("bpfleet", str(bar), "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=0755,size=64k")
        for path, fd in opened:
            if stat.S_ISDIR(os.fstat(fd).st_mode):
                path.mkdir(parents=True, exist_ok=True)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
            _mount(f"/proc/self/fd/{fd}", str(path), "", _MS_BIND | _MS_REC)
            os.close(fd)


def _may_pass(directory: Path, user: User) -> bool:
    status = directory.stat()
    if status.st_uid == user.uid:
        return bool(status.st_mode & stat.S_IXUSR)
    if status.st_gid == user.gid:
        return bool(status.st_mode & stat.S_IXGRP)
    return bool(status.st_mode & stat.S_IXOTH)


def _mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    if _libc.mount(
        source.encode(), target.encode(), kind.encode() or None, ctypes.c_ulong(flags), data.encode() or None
    ):
        raise _failure(f"mount {target}")


def _failure(what: str) -> OSError:
    code = ctypes.get_errno()
    return OSError(code, f"{what}: {os.strerror(code)}")

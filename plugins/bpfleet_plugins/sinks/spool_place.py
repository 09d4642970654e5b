"""Where a spool's file is to lie: keeping other agents out, and putting aside what is no spool."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from contextlib import suppress
from pathlib import Path

from bpfleet.errors import PrivilegeError, SinkError

__all__ = ["Damaged", "barred", "check_place", "set_aside", "take_lock", "unusable", "what_helps"]

_KEPT = 2
"""Files put aside that are kept."""


class Damaged(Exception):
    """Raised where a file is not, or no longer, a spool that can be used."""


def take_lock(path: Path, user: str) -> int:
    """A descriptor that keeps every other process from the spool at `path`; makes its folder.

    Raises SinkError where another has it, PrivilegeError where `user` may not write there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise barred(error, path, user) from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise SinkError(
            "another agent uses this spool",
            where=str(path),
            remedy="give each agent a state directory of its own ([agent] state)",
        ) from None
    return fd


def check_place(path: Path, user: str) -> None:
    """Raise Damaged where what lies there can't be a spool of `user`'s."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise barred(error, path, user) from None
    if not stat.S_ISREG(found.st_mode):
        raise Damaged("it is no regular file")
    if found.st_uid != os.geteuid():
        raise Damaged(f"it belongs to uid {found.st_uid}, not to user {user!r}")
    if not os.access(path, os.R_OK | os.W_OK, effective_ids=True):
        raise Damaged(f"user {user!r} may not read and write it")


def set_aside(path: Path, user: str) -> Path | None:
    """Rename what lies there, and its log, to NAME.damaged-TIME; the oldest of those go.

    Returns its new name, None where nothing was there.
    """
    base, number = f"{path.name}.damaged-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}", 0
    while os.path.lexists(aside := path.with_name(base + (f".{number}" if number else ""))):
        number += 1
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise barred(error, path, user) from None
    with suppress(OSError):
        os.rename(f"{path}-wal", f"{aside}-wal")
    kept = [one for one in path.parent.glob(f"{path.name}.damaged-*") if not one.name.endswith("-wal")]
    for old in sorted(kept, key=lambda one: os.lstat(one).st_ctime_ns)[:-_KEPT]:
        with suppress(OSError):
            # A folder with something in it is somebody's, and stays.
            old.rmdir() if old.is_dir() and not old.is_symlink() else old.unlink()
            Path(f"{old}-wal").unlink(missing_ok=True)
    return aside


def barred(error: OSError, path: Path, user: str) -> SinkError | PrivilegeError:
    """What keeps `user` from having a spool at `path`."""
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return PrivilegeError(
            f"user {user!r} can't keep a spool: {error.strerror}",
            where=str(path.parent),
            remedy=f"chown -R {user} {path.parent}",
        )
    space = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return SinkError(
        f"the spool can't be opened: {error.strerror}",
        where=str(path),
        remedy="free some space on its disk" if space else "move away what is in its place",
    )


def what_helps(words: str) -> str:
    """What to do about a disk that takes no more, by what it said."""
    if "I/O error" in words or "Input/output error" in words:
        return "the disk itself fails: see dmesg, and give the agent a state directory on another"
    return "free some space on its disk"


def unusable(path: Path, error: Exception) -> SinkError:
    """The spool at `path` can't be opened, or be used any longer; it is tried again."""
    return SinkError(
        f"the spool can't be used: {error}",
        where=str(path),
        remedy="look at its disk; it is tried again, and records wait in memory meanwhile",
    )

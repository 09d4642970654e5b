"""The unprivileged user that a process of ours becomes, and the folder that this user keeps its state in."""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass
from pathlib import Path

from bpfleet.errors import PrivilegeError

__all__ = ["User", "chosen_user", "make_state_directory"]


@dataclass(frozen=True, slots=True)
class User:
    """Whom a process becomes."""

    name: str
    uid: int
    gid: int


def chosen_user(configured: str | None, *, who: str, table: str) -> User:
    """The configured user, else `bpfleet` where it exists, else `nobody`; raises PrivilegeError.

    `who` runs as that user (for messages), `table` of the configuration names it.
    """
    for name in [configured] if configured else ["bpfleet", "nobody"]:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid == 0:
            raise PrivilegeError(
                f"the {who} must not run as {name}, which is root",
                where=f"[{table}] user",
                remedy="name an unprivileged user, or leave the key out",
            )
        return User(name, entry.pw_uid, entry.pw_gid)
    raise PrivilegeError(
        f"there is no user {configured or 'nobody'!r} on this host",
        where=f"[{table}] user",
        remedy="useradd --system --no-create-home bpfleet, or name a user that exists",
    )


def make_state_directory(path: Path, user: User | None, *, table: str, mode: int) -> None:
    """Make the folder for `user` (None: for ourselves) where it is missing; raises PrivilegeError."""
    try:
        if not path.exists():
            path.mkdir(parents=True, mode=mode)
            if user is not None:
                os.chown(path, user.uid, user.gid)
    except OSError as error:
        raise PrivilegeError(
            f"the state directory can't be made: {error.strerror}",
            where=str(path),
            remedy=f"set [{table}] state to a directory that can be made",
        ) from None

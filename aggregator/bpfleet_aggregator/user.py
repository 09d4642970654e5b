"""Giving up root once ports are bound."""

from __future__ import annotations

import ctypes
import os
import pwd
from dataclasses import dataclass
from pathlib import Path

from bpfleet.errors import PrivilegeError

__all__ = ["User", "become", "made_state_directory", "no_new_privileges", "user_to_become"]

_PR_SET_NO_NEW_PRIVS = 38


@dataclass(frozen=True, slots=True)
class User:
    """Whom the aggregator runs as."""

    name: str
    uid: int
    gid: int


def user_to_become(configured: str | None) -> User | None:
    """The configured user, else `bpfleet` where it exists, else `nobody`; None where we are not root."""
    if os.geteuid() != 0:
        return None
    for name in [configured] if configured else ["bpfleet", "nobody"]:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid == 0:
            raise PrivilegeError(
                f"the aggregator does not run as {name}, which is root",
                where="[aggregator] user",
                remedy="name an unprivileged user, or leave the key out",
            )
        return User(name, entry.pw_uid, entry.pw_gid)
    raise PrivilegeError(
        f"there is no user {configured or 'nobody'!r} on this host",
        where="[aggregator] user",
        remedy="useradd --system --no-create-home bpfleet, or name a user that exists",
    )


def made_state_directory(path: Path, user: User | None) -> Path:
    """The state directory, made for `user` where it is missing; raises PrivilegeError."""
    try:
        if not path.exists():
            path.mkdir(parents=True, mode=0o750)
            if user is not None:
                os.chown(path, user.uid, user.gid)
    except OSError as error:
        raise PrivilegeError(
            f"the state directory can't be made: {error.strerror}",
            where=str(path),
            remedy="set [aggregator] state to a directory that can be made",
        ) from None
    return path.resolve()


def no_new_privileges() -> None:
    """For this thread and those that it starts; so before ZeroMQ starts its own."""
    libc = ctypes.CDLL(None, use_errno=True)
    zero = ctypes.c_ulong(0)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), zero, zero, zero):
        code = ctypes.get_errno()
        raise OSError(code, f"prctl: {os.strerror(code)}")


def become(user: User, state: Path) -> None:
    """Be `user` for good, in all threads; raises PrivilegeError where it can't write to `state`."""
    os.setgroups([])
    os.setresgid(user.gid, user.gid, user.gid)
    os.setresuid(user.uid, user.uid, user.uid)
    if not os.access(state, os.W_OK | os.X_OK):
        raise PrivilegeError(
            f"user {user.name} can't write to the state directory",
            where=str(state),
            remedy=f"chown {user.name} {state}, or set [aggregator] user or state",
        )

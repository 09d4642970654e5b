"""Giving up root once ports are bound, and what else holds for a process of the aggregator."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import sys
from pathlib import Path

from bpfleet.errors import PrivilegeError
from bpfleet.users import User, chosen_user

__all__ = ["become", "collect_seldom", "die_with", "no_new_privileges", "user_to_become"]

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38


def user_to_become(configured: str | None) -> User | None:
    """Whom to become; None where we are not root. Raises PrivilegeError."""
    if os.geteuid() != 0:
        return None
    return chosen_user(configured, who="aggregator", table="aggregator")


def no_new_privileges() -> None:
    """For this thread and those that it starts; so before any library starts its own."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def die_with(parent: int) -> None:
    """Be killed when the process that started us ends, however it ends."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it had ended before
        os._exit(1)


def collect_seldom() -> None:
    """Have Python look for cycles seldom: records go by their reference counts.

    To look through ten thousand sessions every few hundred of them took a quarter of the committer's time.
    """
    gc.set_threshold(100_000, 50, 100)


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    zero = ctypes.c_ulong(0)
    if libc.prctl(option, ctypes.c_ulong(value), zero, zero, zero):
        code = ctypes.get_errno()
        raise OSError(code, f"prctl: {os.strerror(code)}")


def become(user: User, state: Path) -> None:
    """Be `user` for good, in all threads; raises PrivilegeError where it can't go on as that user.

    It must be able to write to `state`, and to read the code: stores are imported only now.
    """
    os.setgroups([])
    os.setresgid(user.gid, user.gid, user.gid)
    os.setresuid(user.uid, user.uid, user.uid)
    if not os.access(state, os.W_OK | os.X_OK):
        raise PrivilegeError(
            f"user {user.name} can't write to the state directory",
            where=str(state),
            remedy=f"chown {user.name} {state}, or set [aggregator] user or state",
        )
    for path in (Path(__file__).parent, Path(sys.prefix)):
        for folder in (*reversed(path.parents), path):
            if not os.access(folder, os.X_OK):
                raise PrivilegeError(
                    f"the aggregator's user {user.name} may not read the code",
                    where=str(folder),
                    remedy=f"chmod go+x {folder}, or install bpfleet elsewhere",
                )

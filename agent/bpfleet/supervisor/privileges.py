"""Giving up privileges for good, between fork and exec of the worker."""

from __future__ import annotations

import ctypes
import os
import pwd
from dataclasses import dataclass
from pathlib import Path

from bpfleet.errors import PrivilegeError

__all__ = [
    "User",
    "die_with_parent",
    "drop_to",
    "make_state_directory",
    "require_capabilities",
    "worker_user",
]

_libc = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG, _PR_SET_KEEPCAPS, _PR_CAPBSET_DROP = 1, 8, 24
_PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE = 38, 47, 2
_CAP_BPF = 39
_NEEDED = {"CAP_KILL": 5, "CAP_SETGID": 6, "CAP_SETUID": 7, "CAP_SETPCAP": 8}
"""To make another user of the worker, and to end it."""


@dataclass(frozen=True, slots=True)
class User:
    """The user that the worker runs as."""

    name: str
    uid: int
    gid: int


def worker_user(configured: str | None) -> User:
    """The configured user, else `bpfleet` where it exists, else `nobody`; raises PrivilegeError."""
    if os.geteuid() != 0:
        raise PrivilegeError(
            "loading BPF programs needs root",
            where=f"user {pwd.getpwuid(os.geteuid()).pw_name}",
            remedy="run it as root; the part that handles plugins and the network gives root up by itself",
        )
    for name in [configured] if configured else ["bpfleet", "nobody"]:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid == 0:
            raise PrivilegeError(
                f"the worker must not run as {name}, which is root",
                where="[agent] user",
                remedy="name an unprivileged user, or leave the key out",
            )
        return User(name, entry.pw_uid, entry.pw_gid)
    raise PrivilegeError(
        f"there is no user {configured or 'nobody'!r} on this host",
        where="[agent] user",
        remedy="useradd --system --no-create-home bpfleet, or name a user that exists",
    )


def require_capabilities() -> None:
    """Raises PrivilegeError naming the capabilities that this process lacks and the split needs."""
    status = Path("/proc/self/status").read_text()
    effective = int(status.partition("CapEff:")[2].split()[0], 16)
    lacking = [name for name, bit in _NEEDED.items() if not effective >> bit & 1]
    if lacking:
        raise PrivilegeError(
            f"root lacks {', '.join(lacking)} here, which it takes to run the worker as another user",
            where="capabilities of this process",
            remedy="give the unit or container them; bpfleet doctor says how",
        )


def make_state_directory(path: Path, user: User) -> None:
    """Make the state directory for the worker's user where it is missing; raises PrivilegeError."""
    try:
        if not path.exists():
            path.mkdir(parents=True, mode=0o755)
            os.chown(path, user.uid, user.gid)
    except OSError as error:
        raise PrivilegeError(
            f"the state directory can't be made: {error.strerror}",
            where=str(path),
            remedy="set [agent] state to a directory that can be made",
        ) from None


def drop_to(user: User, *, keep_bpf: bool) -> None:
    """Become `user` for good, without capabilities (but CAP_BPF with `keep_bpf`); in the child,
    before exec."""
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    for capability in range(last + 1):
        if not (keep_bpf and capability == _CAP_BPF):
            _prctl(_PR_CAPBSET_DROP, capability)
    if keep_bpf:
        _prctl(_PR_SET_KEEPCAPS, 1)
    os.setgroups([])
    os.setresgid(user.gid, user.gid, user.gid)
    os.setresuid(user.uid, user.uid, user.uid)
    if keep_bpf:
        _keep_only(_CAP_BPF)
        _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, _CAP_BPF)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def die_with_parent(number: int) -> None:
    """Have this process sent signal `number` when its parent ends; a change of user clears it."""
    _prctl(_PR_SET_PDEATHSIG, number)


def _prctl(option: int, *values: int) -> None:
    arguments = [ctypes.c_ulong(value) for value in (*values, 0, 0, 0, 0)][:4]
    if _libc.prctl(option, *arguments):
        code = ctypes.get_errno()
        raise OSError(code, f"prctl({option}): {os.strerror(code)}")


def _keep_only(capability: int) -> None:
    """capset(2): permitted, inheritable and effective are this one."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    word, bit = divmod(capability, 32)
    data = (ctypes.c_uint32 * 6)()
    for kind in range(3):
        data[word * 3 + kind] = 1 << bit
    if _libc.capset(header, data):
        code = ctypes.get_errno()
        raise OSError(code, f"capset: {os.strerror(code)}")

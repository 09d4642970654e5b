"""Giving up privileges for good, between fork and exec of the worker."""

from __future__ import annotations

import ctypes
import os
import pwd
from pathlib import Path

from bpfleet.errors import PrivilegeError
from bpfleet.users import User, chosen_user

__all__ = ["die_with_parent", "drop_to", "require_capabilities", "worker_user"]

_libc = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG, _PR_SET_KEEPCAPS, _PR_CAPBSET_DROP = 1, 8, 24
_PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE = 38, 47, 2
_CAP_BPF = 39
_NEEDED = {"CAP_KILL": 5, "CAP_SETGID": 6, "CAP_SETUID": 7, "CAP_SETPCAP": 8}
"""To make another user of the worker, and to end it."""


def worker_user(configured: str | None) -> User:
    """The configured user, else `bpfleet` where it exists, else `nobody`; raises PrivilegeError."""
    if os.geteuid() != 0:
        raise PrivilegeError(
            "loading BPF programs needs root",
            where=f"user {pwd.getpwuid(os.geteuid()).pw_name}",
            remedy="run it as root; the part that handles plugins and the network gives root up by itself",
        )
    return chosen_user(configured, who="worker", table="agent")


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

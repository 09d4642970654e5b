"""tracefs and bpffs where the loader needs them, seen by the loader alone.

Attaching to a tracepoint needs tracefs; a host may have it mounted or not. The loader takes a mount
namespace of its own and mounts there what is missing, so the host's mount table never changes.
"""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from pathlib import Path

from bpfleet.errors import UnsupportedError

__all__ = ["mount_privately"]

# Numbers are from the kernel's uapi headers linux/sched.h and linux/mount.h.
_CLONE_NEWNS = 0x00020000
_MS_REC = 0x4000
_MS_PRIVATE = 1 << 18
_MS_NOSUID_NODEV_NOEXEC = 2 | 4 | 8


@dataclass(frozen=True, slots=True)
class _Wanted:
    kind: str
    place: str


# bcc 0.26 and libbpf 1.1 both look under /sys/kernel/debug/tracing first and fall back to this place.
_WANTED = (_Wanted("tracefs", "/sys/kernel/tracing"), _Wanted("bpf", "/sys/fs/bpf"))


def mount_privately() -> None:
    """Give this process its own mount namespace with tracefs and bpffs mounted; call it once, early.

    A file system that the kernel does not have is left out: programs that need none still load.
    Raises UnsupportedError where the namespace or a mount is refused.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS):
        raise _refused("a mount namespace of the loader's own")
    # Without this a mount would spread to the host wherever / is shared, as systemd makes it.
    if _mount(libc, None, "/", None, _MS_REC | _MS_PRIVATE):
        raise _refused("making the loader's mounts private")
    mounted = _mounted()
    for wanted in _WANTED:
        if mounted.get(wanted.place) == wanted.kind or not Path(wanted.place).is_dir():
            continue
        if _mount(libc, wanted.kind, wanted.place, wanted.kind, _MS_NOSUID_NODEV_NOEXEC):
            raise _refused(f"mounting {wanted.kind} on {wanted.place}")


def _mount(libc: ctypes.CDLL, source: str | None, target: str, kind: str | None, flags: int) -> int:
    encoded = [None if text is None else text.encode() for text in (source, target, kind)]
    result: int = libc.mount(*encoded, ctypes.c_ulong(flags), None)
    return result


def _mounted() -> dict[str, str]:
    """File system type by mount point; the one mounted last, where there are several."""
    table = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        # proc_pid_mountinfo(5): the mount point is the fifth field, the type follows a lone hyphen.
        fields = line.split(" ")
        table[fields[4]] = fields[fields.index("-", 6) + 1]
    return table


def _refused(what: str) -> UnsupportedError:
    reason = os.strerror(ctypes.get_errno())
    return UnsupportedError(
        f"{what} is refused: {reason}",
        where="loader, before a program is loaded",
        remedy="run the agent as root with CAP_SYS_ADMIN; in a container start it privileged, "
        "or mount tracefs on /sys/kernel/tracing and bpffs on /sys/fs/bpf for it",
    )

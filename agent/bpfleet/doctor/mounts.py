"""tracefs, bpffs and debugfs: mounted on the host, or to be had in a mount namespace of the loader's own."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bpfleet.doctor.finding import Finding, Subject, missing, ok, unseen, warn
from bpfleet.errors import BpfleetError
from bpfleet.loader.tracing_mounts import mount_privately

__all__ = ["look_into", "mounts"]


@dataclass(frozen=True, slots=True)
class _FileSystem:
    name: str
    kind: str
    place: str
    use: str
    sign: str = ""
    """A file that is there when it works."""


_WANTED = (
    _FileSystem("tracefs", "tracefs", "/sys/kernel/tracing", "tracepoints are looked up in it", "events"),
    _FileSystem("bpffs", "bpf", "/sys/fs/bpf", "pinned maps"),
)
_DEBUGFS = _FileSystem("debugfs", "debugfs", "/sys/kernel/debug", "nothing needs it")


def mounts(subject: Subject) -> Iterator[Finding]:
    """One finding for each file system. What is mounted here is mounted in this process's namespace."""
    host = {(kind, place) for place, kind in mounted()}
    known = _known()
    problem: BpfleetError | None = None
    if subject.root:
        try:
            mount_privately()
        except BpfleetError as error:
            problem = error
    for one in _WANTED:
        on_host = (one.kind, one.place) in host
        if on_host and os.access(one.place, os.R_OK | os.X_OK) and Path(one.place, one.sign).exists():
            yield ok(one.name, f"mounted on {one.place}: {one.use}")
        elif not subject.root:
            state = f"mounted on {one.place} for root alone" if on_host else "not mounted"
            yield unseen(one.name, f"{state}; only root can try to mount it")
        elif one.kind not in known:
            yield warn(
                one.name,
                f"the kernel has no file system {one.kind}",
                "programs that need none still load; for tracepoints use raw_tp or tp_btf",
            )
        elif (one.kind, one.place) in {(kind, place) for place, kind in mounted()}:
            yield ok(one.name, "not mounted on the host; the loader mounts it for itself alone (tried)")
        elif problem is not None:
            yield missing(one.name, f"not mounted, and {problem.what}", problem.remedy)
        else:
            yield warn(
                one.name,
                f"not mounted, and there is no directory {one.place}",
                f"mount {one.kind} on {one.place}; sysfs must be mounted on /sys",
            )
    yield _debugfs(subject, host, known)


def _debugfs(subject: Subject, host: set[tuple[str, str]], known: set[str]) -> Finding:
    """Said for completeness: old tools look for tracefs below it."""
    one = _DEBUGFS
    if (one.kind, one.place) in host:
        return ok(one.name, f"mounted on {one.place}; {one.use}")
    if one.kind not in known:
        return ok(one.name, f"the kernel has none; {one.use}")
    if subject.root and look_into(one.kind, one.place):
        return ok(one.name, f"not mounted; it can be (tried); {one.use}")
    return ok(one.name, f"not mounted; {one.use}")


def look_into(kind: str, place: str) -> bool:
    """Have the file system `kind` on `place`: mounted in a mount namespace of this process's own, if need be.

    For children that end: debugfs and securityfs say things that nothing else says. False where it can't
    be had.
    """
    if (place, kind) in list(mounted()):
        return True
    if not Path(place).is_dir():
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    new_mounts, private = 0x00020000, 0x4000 | 1 << 18  # CLONE_NEWNS; MS_REC | MS_PRIVATE
    if libc.unshare(new_mounts) or libc.mount(None, b"/", None, ctypes.c_ulong(private), None):
        return False
    flags = ctypes.c_ulong(1 | 2 | 4 | 8)  # MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC
    return not libc.mount(kind.encode(), place.encode(), kind.encode(), flags, None)


def mounted() -> Iterator[tuple[str, str]]:
    """(place, file system) of every mount, in the order in which they were made."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        # proc_pid_mountinfo(5): the fifth field is the place; the file system follows a lone hyphen.
        fields = line.split(" ")
        yield fields[4], fields[fields.index("-", 6) + 1]


def _known() -> set[str]:
    """File systems that the kernel has now; one in a module that is not loaded is not among them."""
    return {line.split()[-1] for line in Path("/proc/filesystems").read_text().splitlines() if line.split()}

"""One attempt to attach: which fds keep the program there, or why it can't be.

libbpf's link objects tell one fd at most, and none for a USDT probe, which is many. So the fds that appeared
while it attached are taken: they outlive this process in whoever they are sent to.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable

from bpfleet.errors import AttachError
from bpfleet.loader.libbpf import Log, ProgramHandle
from bpfleet.loader.logs import telling_lines

__all__ = ["Links", "link", "refused"]

Links = tuple[int, ...]
"""The fds that keep a program attached."""


def link(attach: Callable[[], int | None], program: ProgramHandle, place: str, remedy: str = "") -> Links:
    """The fds that `attach` leaves open; it gives a `bpf_link`'s address, or none where libbpf refuses.

    Raises AttachError naming program and place, with the telling lines of what libbpf said.
    """
    before = _open_fds()
    ctypes.set_errno(0)
    with Log() as log:
        made = attach()
    if not made:
        raise refused(program, place, remedy, code=ctypes.get_errno(), log=log.text)
    return tuple(sorted(_open_fds() - before))


def refused(
    program: ProgramHandle, place: str, remedy: str = "", *, code: int = 0, reason: str = "", log: str = ""
) -> AttachError:
    """The error for a program that the kernel or libbpf would not attach."""
    return AttachError(
        f"program {program.name!r} can't be attached: {reason or os.strerror(code)}",
        where=place,
        log=telling_lines(log, 4),
        remedy=remedy or "bpfleet doctor shows what this kernel can attach to",
    )


def _open_fds() -> set[int]:
    # The listing's own fd is closed when it is done; it may stand in the list.
    return {fd for fd in map(int, os.listdir("/proc/self/fd")) if _is_open(fd)}


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True

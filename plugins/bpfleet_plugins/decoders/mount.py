"""mount: the kernel's number of a file system's device (major << 20 | minor) → where it is mounted."""

from __future__ import annotations

import os
import re
import select
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from bpfleet import Decoder, hookimpl

_LONGEST = 128
_MINOR_BITS = 20
_KEPT = 4096
_ESCAPED = re.compile(r"\\([0-7]{3})")


class Mounts:
    """Mount points by device, from /proc/self/mountinfo, which the kernel says when to read again.

    Of several it is the shortest, and one of a whole file system before one of a folder in it (a bind mount).
    One that has gone keeps the place that it had."""

    def __init__(self, path: Path = Path("/proc/self/mountinfo")) -> None:
        self._path = path
        self._fd = -1
        self._poll = select.poll()
        self._places: dict[int, bytes] = {}

    def names(self, numbers: Any) -> Any:
        """The place of each; "" for 0, which is no file system, `major:minor` for one not mounted here."""
        with suppress(OSError):  # what was known stays known
            self._refresh()
        return np.array([self._name(number) for number in numbers.tolist()], f"S{_LONGEST}")

    def _name(self, number: int) -> bytes:
        if not number:
            return b""
        plain = f"{number >> _MINOR_BITS}:{number & (1 << _MINOR_BITS) - 1}"
        return self._places.get(number, plain.encode())

    def _refresh(self) -> None:
        if self._fd < 0:
            self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            weakref.finalize(self, os.close, self._fd)
            # proc(5): a change of the mounts is POLLERR and POLLPRI, until the file is polled again.
            self._poll.register(self._fd, select.POLLERR | select.POLLPRI)
        elif not self._poll.poll(0):
            return
        found = places(self._path.read_bytes())
        for number, place in found.items():
            self._places.pop(number, None)  # to the end: the longest gone make room
            self._places[number] = place
        for number in list(self._places)[: max(0, len(self._places) - _KEPT)]:
            del self._places[number]


def places(mountinfo: bytes) -> dict[int, bytes]:
    """Where each device is mounted, by its number; the format is proc(5)'s."""
    best: dict[int, tuple[bool, int, bytes]] = {}
    for line in mountinfo.decode("utf-8", "surrogateescape").splitlines():
        _, _, device, root, place, *_ = line.split(" ")
        major, minor = device.split(":")
        number = int(major) << _MINOR_BITS | int(minor)
        raw = _ESCAPED.sub(lambda match: chr(int(match[1], 8)), place).encode("utf-8", "surrogateescape")
        rank = (root != "/", len(raw), raw)
        best[number] = min(best.get(number, rank), rank)
    return {number: raw for number, (_, _, raw) in best.items()}


@hookimpl
def bpfleet_decoders() -> list[Decoder]:
    """The decoder of this plugin."""
    return [
        Decoder(
            name="mount",
            help="where it is mounted",
            ctype=f"char[{_LONGEST}]",
            decode=Mounts().names,
        )
    ]

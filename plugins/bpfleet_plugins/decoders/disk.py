"""disk: the kernel's number of a block device (major << 20 | minor) → its name, such as `sda1`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bpfleet import Decoder, hookimpl

_LONGEST = 32  # DISK_NAME_LEN
_MINOR_BITS = 20
_KEPT = 1024


class Disks:
    """Names by number, from /sys/dev/block, which is asked each time: disks come and go, and numbers are used
    again. One that has gone keeps the name that it had, as its counters stay."""

    def __init__(self, sys: Path = Path("/sys")) -> None:
        self._links = sys / "dev/block"
        self._last: dict[int, str] = {}

    def names(self, numbers: Any) -> Any:
        """The name of each; "" for 0, which is no disk, and `major:minor` for one that was never seen."""
        return np.array([self._name(number) for number in numbers.tolist()], f"S{_LONGEST}")

    def _name(self, number: int) -> str:
        if not number:
            return ""
        device = f"{number >> _MINOR_BITS}:{number & (1 << _MINOR_BITS) - 1}"
        try:
            name = (self._links / device).readlink().name
        except OSError:
            return self._last.get(number, device)
        self._last.pop(number, None)  # to the end: the longest unseen make room
        self._last[number] = name
        if len(self._last) > _KEPT:
            del self._last[next(iter(self._last))]
        return name


@hookimpl
def bpfleet_decoders() -> list[Decoder]:
    """The decoder of this plugin."""
    return [Decoder(name="disk", help="the disk's name", ctype=f"char[{_LONGEST}]", decode=Disks().names)]

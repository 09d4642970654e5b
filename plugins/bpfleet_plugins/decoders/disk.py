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
    """Names by number, from /sys/dev/block. A number is kept for as long as the name leads back to it: disks come
    and go, and numbers are used again."""

    def __init__(self, sys: Path = Path("/sys")) -> None:
        self._sys = sys
        self._kept: dict[int, str] = {}

    def names(self, numbers: Any) -> Any:
        """The name of each; "" for 0, which is no disk, and `major:minor` for one that is not there."""
        return np.array([self._name(number) for number in numbers.tolist()], f"S{_LONGEST}")

    def _name(self, number: int) -> str:
        if not number:
            return ""
        device = f"{number >> _MINOR_BITS}:{number & (1 << _MINOR_BITS) - 1}"
        kept = self._kept.get(number)
        if kept is not None and self._is(kept, device):
            return kept
        try:
            found = (self._sys / "dev/block" / device).readlink().name
        except OSError:
            self._kept.pop(number, None)
            return device
        if len(self._kept) >= _KEPT:
            del self._kept[next(iter(self._kept))]
        self._kept[number] = found
        return found

    def _is(self, name: str, device: str) -> bool:
        try:
            return (self._sys / "class/block" / name / "dev").read_text().strip() == device
        except OSError:
            return False


@hookimpl
def bpfleet_decoders() -> list[Decoder]:
    """The decoder of this plugin."""
    return [Decoder(name="disk", help="the disk's name", ctype=f"char[{_LONGEST}]", decode=Disks().names)]

"""uid: 33 → www-data, by /etc/passwd.

Not by the name service: that may ask a server, and a decoder runs in the middle of a tick.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bpfleet import Decoder, hookimpl

__all__ = ["Users", "bpfleet_decoders"]

_LONGEST = 32  # as useradd(8) allows
_MOST_BYTES = 1 << 22


class Users:
    """The names in a file like /etc/passwd, read again when it has changed."""

    def __init__(self, path: Path = Path("/etc/passwd")) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._names: dict[int, str] = {}

    def names(self, numbers: Any) -> Any:
        """The name of each user; the number where it has none."""
        self._read()
        return np.array([self._names.get(one, str(one)) for one in numbers.tolist()], f"U{_LONGEST}")

    def _read(self) -> None:
        try:
            about = self._path.stat()
            seen = about.st_ino, about.st_size, about.st_mtime_ns
            if seen == self._seen:
                return
            with self._path.open("rb") as file:
                lines = file.read(_MOST_BYTES).decode("utf-8", "replace").splitlines()
        except OSError:  # what was read before is the best there is
            return
        self._seen = seen
        found: dict[int, str] = {}
        for line in lines:
            name, _, rest = line.partition(":")
            number = rest.split(":", 2)[1:2]
            if name and number and number[0].isascii() and number[0].isdigit():
                found.setdefault(int(number[0]), name)  # the first line of a number wins, as in getpwuid(3)
        self._names = found


@hookimpl
def bpfleet_decoders() -> list[Decoder]:
    """The decoder of this plugin."""
    return [Decoder(name="uid", help="the user's name", ctype=f"char[{_LONGEST}]", decode=Users().names)]

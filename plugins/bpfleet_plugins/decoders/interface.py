"""interface: the name of a network interface, 2 → eth0, in the agent's own network namespace.

Other namespaces number their interfaces anew: a program that sees those keeps `dev->name` itself.
"""

from __future__ import annotations

import contextlib
import socket
import time
from typing import Any

import numpy as np

from bpfleet import Decoder, hookimpl

_LONGEST = 16  # IFNAMSIZ
_SECONDS = 5.0


class Interfaces:
    """The names, read at most every few seconds. One that has gone keeps its name until its number is used
    anew; of those `most` are kept, the last that were asked for."""

    def __init__(self, most: int = 4096) -> None:
        self._most = most
        self._known: dict[int, str] = {}
        self._read_at = float("-inf")

    def names(self, numbers: Any) -> Any:
        """The name of each interface; "" for 0, the number where there is none."""
        if time.monotonic() - self._read_at > _SECONDS:
            self._read_at = time.monotonic()
            with contextlib.suppress(OSError):  # then what is known stays
                self._known |= dict(socket.if_nameindex())
        wanted = numbers.tolist()
        found = np.array([self._name(number) for number in wanted], f"S{_LONGEST}")
        while len(self._known) > self._most:
            del self._known[next(iter(self._known))]
        return found

    def _name(self, number: int) -> str:
        if number not in self._known:
            return str(number) if number else ""
        # What is asked for goes to the end, away from what is forgotten first.
        name = self._known[number] = self._known.pop(number)
        return name


@hookimpl
def bpfleet_decoders() -> list[Decoder]:
    """The decoder of this plugin."""
    return [
        Decoder(
            name="interface",
            help="the interface's name",
            ctype=f"char[{_LONGEST}]",
            decode=Interfaces().names,
        )
    ]

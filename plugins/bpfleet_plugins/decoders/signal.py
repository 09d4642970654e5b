"""signal: 9 → SIGKILL."""

from __future__ import annotations

import signal
from typing import Any

import numpy as np

from bpfleet import Decoder, hookimpl

# glibc keeps 32 and 33 for itself: SIGRTMIN is the first that a program can use.
_REAL_TIME = range(int(signal.SIGRTMIN), int(signal.SIGRTMAX) + 1)
_NAMES = {
    0: "",
    **{number: f"SIGRTMIN+{number - _REAL_TIME[0]}" for number in _REAL_TIME},
    **{int(one): one.name for one in signal.Signals},
}


def names(numbers: Any) -> Any:
    """The name of each signal; "" for 0, the number where it has no name."""
    return np.array([_NAMES.get(number, str(number)) for number in numbers.tolist()], "S16")


@hookimpl
def bpfleet_decoders() -> list[Decoder]:
    """The decoder of this plugin."""
    return [Decoder(name="signal", help="the signal's name", ctype="char[16]", decode=names)]

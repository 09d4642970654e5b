"""errno: 2 → ENOENT; the sign does not matter, as programs keep what the kernel returned either way."""

from __future__ import annotations

import errno
from typing import Any

import numpy as np

from bpfleet import Decoder, hookimpl


def names(numbers: Any) -> Any:
    """The name of each error number; "" for 0, the number where it has no name."""
    known = {0: "", **errno.errorcode}
    wanted = np.abs(numbers.astype(np.int64)).tolist()
    return np.array([known.get(number, str(number)) for number in wanted], "S16")


@hookimpl
def bpfleet_decoders() -> list[Decoder]:
    """The decoder of this plugin."""
    return [Decoder(name="errno", help="the error's name", ctype="char[16]", decode=names)]

"""errno: 2 → ENOENT; the sign does not matter, as programs keep what the kernel returned either way."""

from __future__ import annotations

import errno
from typing import Any

import numpy as np

from bpfleet import Decoder, hookimpl

_LONGEST = 24

# What system calls return inside the kernel, where tracing sees it: include/linux/errno.h.
_KERNEL = {
    512: "ERESTARTSYS",
    513: "ERESTARTNOINTR",
    514: "ERESTARTNOHAND",
    515: "ENOIOCTLCMD",
    516: "ERESTART_RESTARTBLOCK",
    517: "EPROBE_DEFER",
    524: "ENOTSUPP",
}
_NAMES = {0: "", **_KERNEL, **errno.errorcode}


def names(numbers: Any) -> Any:
    """The name of each error number; "" for 0, the number where it has no name."""
    wanted = np.abs(numbers.astype(np.int64)).tolist()
    return np.array([_NAMES.get(number, str(number)) for number in wanted], f"S{_LONGEST}")


@hookimpl
def bpfleet_decoders() -> list[Decoder]:
    """The decoder of this plugin."""
    return [Decoder(name="errno", help="the error's name", ctype=f"char[{_LONGEST}]", decode=names)]

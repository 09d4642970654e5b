"""syscall: the name of a system call by its number, of this machine's ABI.

Two bits tell another ABI's call, as the collector `syscalls` keeps them: 2^29, which the collector sets, a
32-bit one (`i386:read`; on arm64 `arm:3`: its names are not known); 2^30, the kernel's own, x32 (`x32:read`).
What no call has is 2^29 - 1 there: `invalid`.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

import numpy as np

from bpfleet import Decoder, hookimpl

_LONGEST = 40
_COMPAT, _X32 = 1 << 29, 1 << 30
_NO_CALL = _COMPAT - 1


@cache
def table(abi: str) -> Mapping[int, str]:
    """The names of one ABI (`x86_64`, `i386`, `aarch64`) by number; empty for others.

    The file is made by bpf/syscall_names.py."""
    text = resources.files(__package__).joinpath("syscalls.txt").read_text()
    lines = (line.split() for line in text.splitlines())
    return {int(number): name for one, number, name in lines if one == abi}


def named_on(machine: str, numbers: Any) -> Any:
    """The names of `numbers` on `machine`, as uname says it."""
    return np.array([_name(machine, number) for number in numbers.tolist()], f"S{_LONGEST}")


def _name(machine: str, number: int) -> str:
    if number == _NO_CALL:
        return "invalid"
    if number >= 0 and number & _COMPAT:
        abi = "i386" if machine == "x86_64" else "arm"
        plain = number ^ _COMPAT
        return f"{abi}:{table(abi).get(plain, str(plain))}"
    if number >= 0 and number & _X32 and machine == "x86_64":
        plain = number ^ _X32
        return f"x32:{table(machine).get(plain, str(plain))}"
    return table(machine).get(number, str(number))


@hookimpl
def bpfleet_decoders() -> list[Decoder]:
    """The decoder of this plugin."""
    machine = platform.machine()
    return [
        Decoder(
            name="syscall",
            help="the system call's name",
            ctype=f"char[{_LONGEST}]",
            decode=lambda numbers: named_on(machine, numbers),
        )
    ]

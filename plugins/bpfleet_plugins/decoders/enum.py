"""enum: numbers of a kernel's enum by the names that the running kernel has for them.

    label("reason", "u32", decode="enum:skb_drop_reason")

gets a column `reason_enum`. Values move between kernel versions, so the names are the running kernel's own,
from its BTF.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bpfleet import Decoder, hookimpl, kernel_enum

_LONGEST = 64
_SPAN = 1 << 32


def named_by(enum: str) -> Callable[[Any], Any]:
    """The decoder for `enum`; a number stays a number where the kernel has no name for it."""
    names = kernel_enum(enum)

    def name(number: int) -> str:
        # A negative value may have been kept in a u32, a large one in an s32.
        return names.get(number) or names.get(number - _SPAN) or names.get(number + _SPAN) or str(number)

    def decode(numbers: Any) -> Any:
        return np.array([name(number) for number in numbers.tolist()], f"S{_LONGEST}")

    return decode


@hookimpl
def bpfleet_decoders() -> list[Decoder]:
    """The decoder of this plugin."""
    return [
        Decoder(name="enum", help="the kernel's name for the number", ctype=f"char[{_LONGEST}]", of=named_by)
    ]

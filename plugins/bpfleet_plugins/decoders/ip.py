"""ip: addresses as the kernel keeps them, in network order, as text."""

from __future__ import annotations

import ipaddress
from typing import Any

import numpy as np

from bpfleet import Decoder, hookimpl

_LONGEST = 46  # INET6_ADDRSTRLEN


def addresses(column: Any) -> Any:
    """A u32 holds an IPv4 address, 4 or 16 bytes (`bytes[N]`, `u8[N]`, `u32[4]`) one of either kind; IPv4
    inside IPv6 is shown as IPv4."""
    rows = np.ascontiguousarray(column)
    size = rows.nbytes // max(1, len(rows))
    data = rows.tobytes()
    return np.array([_text(data[at : at + size]) for at in range(0, len(data), size or 1)], f"S{_LONGEST}")


def _text(raw: bytes) -> str:
    try:
        address = ipaddress.ip_address(raw)
    except ValueError:  # neither 4 nor 16 bytes
        return ""
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


@hookimpl
def bpfleet_decoders() -> list[Decoder]:
    """The decoder of this plugin."""
    return [Decoder(name="ip", help="the address as text", ctype=f"char[{_LONGEST}]", decode=addresses)]

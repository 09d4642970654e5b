"""port: a port as sockets and packets hold it, in network order, as the number that people write.

Programs that swap it themselves (`bpf_ntohs`) need no decoder.
"""

from __future__ import annotations

from typing import Any

from bpfleet import Decoder, hookimpl


def numbers(column: Any) -> Any:
    """Each port in host order; of wider fields the two bytes that come first in memory."""
    return column.astype("<u2").byteswap()


@hookimpl
def bpfleet_decoders() -> list[Decoder]:
    """The decoder of this plugin."""
    return [Decoder(name="port", help="the port's number", ctype="u16", decode=numbers)]

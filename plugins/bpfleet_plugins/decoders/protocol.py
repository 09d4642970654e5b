"""protocol: an IP packet's protocol, 6 → tcp. Numbers and names are IANA's, as in /etc/protocols, which hosts
may lack."""

from __future__ import annotations

from typing import Any

import numpy as np

from bpfleet import Decoder, hookimpl

_NAMES = {
    0: "",
    1: "icmp",
    2: "igmp",
    4: "ipip",
    6: "tcp",
    17: "udp",
    33: "dccp",
    41: "ipv6",
    46: "rsvp",
    47: "gre",
    50: "esp",
    51: "ah",
    58: "icmpv6",
    88: "eigrp",
    89: "ospf",
    94: "ipip",
    103: "pim",
    112: "vrrp",
    115: "l2tp",
    132: "sctp",
    136: "udplite",
    137: "mpls",
    143: "ethernet",
}


def names(numbers: Any) -> Any:
    """The name of each protocol; "" for 0, the number where it has no name."""
    return np.array([_NAMES.get(number, str(number)) for number in numbers.tolist()], "S12")


@hookimpl
def bpfleet_decoders() -> list[Decoder]:
    """The decoder of this plugin."""
    return [Decoder(name="protocol", help="the protocol's name", ctype="char[12]", decode=names)]

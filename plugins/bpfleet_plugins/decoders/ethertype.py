"""ethertype: what a frame carries, 0x0800 → ipv4. Numbers in host order; names are those of
linux/if_ether.h, in short."""

from __future__ import annotations

from typing import Any

import numpy as np

from bpfleet import Decoder, hookimpl

_NAMES = {
    0: "",
    0x0003: "all",
    0x0004: "llc",
    0x0800: "ipv4",
    0x0806: "arp",
    0x8100: "vlan",
    0x86DD: "ipv6",
    0x8809: "slow",
    0x8847: "mpls",
    0x8848: "mpls-mc",
    0x8863: "pppoe-disc",
    0x8864: "pppoe",
    0x888E: "eapol",
    0x88A8: "qinq",
    0x88CC: "lldp",
    0x88E5: "macsec",
    0x88F7: "ptp",
}


def names(numbers: Any) -> Any:
    """The name of each type; "" for 0, the number as 0x… where it has no name."""
    return np.array([_NAMES.get(number, f"{number:#06x}") for number in numbers.tolist()], "S12")


@hookimpl
def bpfleet_decoders() -> list[Decoder]:
    """The decoder of this plugin."""
    return [Decoder(name="ethertype", help="what the frame carries", ctype="char[12]", decode=names)]

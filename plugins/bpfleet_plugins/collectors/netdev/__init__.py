"""netdev: packets and bytes by network interface, direction and protocol."""

from __future__ import annotations

from pathlib import Path

from bpfleet import Collector, Map, core, counter, hookimpl, label

NETDEV = Collector(
    name="netdev",
    version="1",
    help="Packets and bytes by network interface, direction and protocol",
    program=core(Path(__file__).with_name("netdev.bpf.c")),
    maps=(
        Map(
            "traffic",
            key=(
                label("interface", "char[16]", help="its name in its network namespace"),
                label("netns", "u32", help="inode of the network namespace, as lsns -t net shows it"),
                label("direction", "char[4]", help="in: received; out: handed to the driver"),
                label("l3", "u16", help="0x0800 is IPv4, 0x86dd IPv6", decode="ethertype"),
                label("l4", "u8", help="of IP: 6 is TCP, 17 UDP; 0 for others", decode="protocol"),
            ),
            value=(
                counter("packets", unit="packets", help="as on the wire"),
                counter("bytes", unit="bytes", help="of frames, as on the wire, with their headers"),
            ),
            help="traffic; the least recently used make room",
        ),
    ),
)


@hookimpl
def bpfleet_collectors() -> list[Collector]:
    """The collector of this plugin."""
    return [NETDEV]

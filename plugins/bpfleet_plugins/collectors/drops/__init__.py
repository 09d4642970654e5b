"""drops: packets that the kernel dropped, by reason, protocol and kernel function."""

from __future__ import annotations

from pathlib import Path

from bpfleet import Collector, Map, core, counter, hookimpl, label

DROPS = Collector(
    name="drops",
    version="1",
    help="Packets that the kernel dropped, by reason, protocol and kernel function",
    program=core(Path(__file__).with_name("drops.bpf.c")),
    maps=(
        Map(
            "drops",
            key=(
                label("function", "char[48]", help="kernel function that dropped"),
                label("reason", "u32", help="number of this kernel's own", decode="enum:skb_drop_reason"),
                label("l3", "u16", help="0 for what is no packet of a network", decode="ethertype"),
                label("l4", "u8", help="of IP: 6 is TCP, 17 UDP; 0 for others", decode="protocol"),
            ),
            value=(
                counter("packets", unit="packets", help="buffers dropped"),
                counter("bytes", unit="bytes", help="what was left in them: headers may have been taken off"),
            ),
            help="packets dropped",
        ),
    ),
)


@hookimpl
def bpfleet_collectors() -> list[Collector]:
    """The collector of this plugin."""
    return [DROPS]

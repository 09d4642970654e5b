"""tcpretrans: TCP segments sent again, by peer and state."""

from __future__ import annotations

from pathlib import Path

from bpfleet import Collector, Map, core, counter, hookimpl, label

TCPRETRANS = Collector(
    name="tcpretrans",
    version="1",
    help="TCP segments sent again, by peer and state of the connection",
    program=core(Path(__file__).with_name("tcpretrans.bpf.c")),
    maps=(
        Map(
            "peers",
            key=(
                label("address", "bytes[16]", help="the peer's; IPv4 as ::ffff:a.b.c.d", decode="ip"),
                label("port", "u16", help="the lower of the two, which is nearly always the service's"),
                label("direction", "char[4]", help="out: that port is the peer's; in: it is ours"),
                label(
                    "state",
                    "u8",
                    help="of the connection, when it was sent again",
                    decode="enum:TCP_ESTABLISHED",
                ),
            ),
            value=(
                counter("count", unit="packets", help="sent again; one may hold several segments"),
                counter("segments", unit="segments", help="as RetransSegs of /proc/net/snmp counts"),
                counter("failed", unit="packets", help="could not be sent; where the tracepoint tells"),
            ),
            help="segments sent again; the least recently used peers make room",
        ),
    ),
)


@hookimpl
def bpfleet_collectors() -> list[Collector]:
    """The collector of this plugin."""
    return [TCPRETRANS]

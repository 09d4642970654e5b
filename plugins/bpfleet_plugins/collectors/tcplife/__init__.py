"""tcplife: bytes and duration of TCP connections that have ended, by process, cgroup and peer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from bpfleet import Collector, CollectorSettings, Map, core, counter, histogram, hookimpl, label


class TcplifeSettings(CollectorSettings, frozen=True, kw_only=True):
    """Settings of `[collectors.tcplife]`."""

    by_pid: bool = True
    """Tell processes of one command and cgroup apart; otherwise their pid is 0."""


def _knobs(settings: TcplifeSettings) -> Mapping[str, bool]:
    return {"by_pid": settings.by_pid}


TCPLIFE = Collector(
    name="tcplife",
    version="1",
    help="Bytes and duration of TCP connections that have ended, by process, cgroup and peer",
    program=core(Path(__file__).with_name("tcplife.bpf.c")),
    maps=(
        Map(
            "ended",
            key=(
                label("address", "bytes[16]", help="the peer's; IPv4 as ::ffff:a.b.c.d", decode="ip"),
                label("cgroup_id", "u64", help="the process's cgroup (v2)", decode="cgroup"),
                label("comm", "char[16]", help="name of the thread that connected, or closed one in"),
                label("pid", "u32", help="process id (tgid), as the host sees it; 0 where by_pid is off"),
                label("direction", "char[4]", help="out: connected; in: accepted"),
                label("port", "u16", help="the service's: out the peer's, in the local one"),
            ),
            value=(
                counter("count", unit="connections", help="connections that have ended"),
                counter("sent", unit="bytes", help="payload; what was sent again counts once"),
                counter("received", unit="bytes", help="payload"),
                counter("total_ns", unit="ns", help="from established to closed"),
                histogram("slots", 40, unit="us", help="connections by duration"),
            ),
            help="connections that have ended; the least recently used make room",
        ),
    ),
    settings=TcplifeSettings,
    knobs=_knobs,
)


@hookimpl
def bpfleet_collectors() -> list[Collector]:
    """The collector of this plugin."""
    return [TCPLIFE]

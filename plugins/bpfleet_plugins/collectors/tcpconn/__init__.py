"""tcpconn: who talks to whom: TCP connections by process, cgroup and peer, and connects that failed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from bpfleet import Collector, CollectorSettings, Field, Map, core, counter, hookimpl, label


class TcpconnSettings(CollectorSettings, frozen=True, kw_only=True):
    """Settings of `[collectors.tcpconn]`."""

    by_pid: bool = True
    """Tell processes of one command and cgroup apart; otherwise their pid is 0."""


def _knobs(settings: TcpconnSettings) -> Mapping[str, bool]:
    return {"by_pid": settings.by_pid}


def _process() -> tuple[Field, ...]:
    return (
        label("cgroup_id", "u64", help="the process's cgroup (v2)", decode="cgroup"),
        label("comm", "char[16]", help="name of the thread that connected or accepted"),
        label("pid", "u32", help="process id (tgid), as the host sees it; 0 where by_pid is off"),
    )


TCPCONN = Collector(
    name="tcpconn",
    version="1",
    help="TCP connections by process, cgroup and peer; connects that failed, by errno",
    program=core(Path(__file__).with_name("tcpconn.bpf.c")),
    maps=(
        Map(
            "connections",
            key=(
                label("address", "bytes[16]", help="the peer's; IPv4 as ::ffff:a.b.c.d", decode="ip"),
                *_process(),
                label("direction", "char[4]", help="out: connected; in: accepted"),
                label("port", "u16", help="the service's: out the peer's, in the local one"),
            ),
            value=(counter("count", unit="connections", help="established, and of those in accepted"),),
            help="connections; the least recently used make room",
        ),
        Map(
            "failures",
            key=(
                label("address", "bytes[16]", help="the peer's; IPv4 as ::ffff:a.b.c.d", decode="ip"),
                *_process(),
                label(
                    "errno",
                    "u32",
                    help="111 is ECONNREFUSED, 110 ETIMEDOUT; 0: given up by the program",
                    decode="errno",
                ),
                label("port", "u16", help="the peer's"),
            ),
            value=(counter("count", unit="connects", help="connects that failed"),),
            help="connects that failed; the least recently used make room",
        ),
    ),
    settings=TcpconnSettings,
    knobs=_knobs,
    ladders={"accept": ("accept_by_fexit", ("accept_by_accept4", "accept_by_accept"))},
)


@hookimpl
def bpfleet_collectors() -> list[Collector]:
    """The collector of this plugin."""
    return [TCPCONN]

"""dnslat: how long host name lookups take, by command and by host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from bpfleet.hooks import hookimpl
from bpfleet.schema import Fold, Map, counter, gauge, histogram, label
from bpfleet.settings import CollectorSettings
from bpfleet.spec import Attach, Collector, bcc

__all__ = ["DnslatSettings", "bpfleet_collectors"]

_FUNCTIONS = ("getaddrinfo", "gethostbyname", "gethostbyname2")


class DnslatSettings(CollectorSettings, frozen=True, kw_only=True):
    """Settings of `[collectors.dnslat]`."""

    commands: int = 1024
    """Commands told apart; lookups of more are counted as failed inserts."""
    hosts: int = 4096
    """Host names kept; beyond it the least recently looked up make room."""

    def __post_init__(self) -> None:
        for name in ("commands", "hosts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; a map has at least 1 entry")


def _knobs(settings: DnslatSettings) -> Mapping[str, int]:
    return {"MAX_COMMS": settings.commands, "MAX_HOSTS": settings.hosts}


@hookimpl
def bpfleet_collectors() -> Sequence[Collector]:
    """The one collector of this plugin."""
    return [
        Collector(
            name="dnslat",
            version="1.0.0",
            help="Latency of host name lookups through libc's getaddrinfo, gethostbyname and gethostbyname2",
            program=bcc(Path(__file__).with_name("dnslat.bpf.c")),
            maps=(
                Map(
                    "latency",
                    key=(label("comm", "char[16]", help="command of the thread that looked up"),),
                    value=(
                        histogram("slots", 32, unit="us", help="lookups by duration"),
                        counter("count", unit="lookups"),
                        counter("total_ns", unit="ns", help="time spent in lookups"),
                    ),
                    help="lookups by command",
                ),
                Map(
                    "hosts",
                    key=(label("host", "char[64]", help="name asked for, cut to 63 characters"),),
                    value=(
                        counter("count", unit="lookups"),
                        counter("total_ns", unit="ns", help="time spent in lookups"),
                        gauge("max_ns", unit="ns", help="the longest lookup", fold=Fold.MAX),
                    ),
                    help="lookups by host name; the least recently looked up make room",
                ),
            ),
            attach=tuple(
                Attach(program, kind, "c", function)
                # Calls first: one that is under way between the two is not counted, rather than miscounted.
                for program, kind in (("lookup_starts", "uprobe"), ("lookup_ends", "uretprobe"))
                for function in _FUNCTIONS
            ),
            settings=DnslatSettings,
            knobs=_knobs,
        )
    ]

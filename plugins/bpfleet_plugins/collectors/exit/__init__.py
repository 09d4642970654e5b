"""exit: which processes end, how, and how long they lived."""

from __future__ import annotations

from pathlib import Path

from bpfleet import Collector, Map, core, counter, histogram, hookimpl, label

EXIT = Collector(
    name="exit",
    version="1",
    help="Ends of processes, by command and exit status or signal, with their lifetimes; and by cgroup",
    program=core(Path(__file__).with_name("exit.bpf.c")),
    maps=(
        Map(
            "exits",
            key=(
                label("comm", "char[16]", help="name of the process's first thread"),
                label("code", "u32", help="exit status, 0 to 255; 0 where a signal ended it"),
                label("signal", "u32", help="the signal that ended it; 0: none", decode="signal"),
            ),
            value=(
                counter("count", unit="processes"),
                counter("dumped", unit="processes", help="those that left a core dump"),
                counter("lifetime_ns", unit="ns", help="sum of their lifetimes"),
                histogram("slots", 40, unit="us", help="processes by lifetime"),
            ),
            help="processes that have ended",
        ),
        Map(
            "cgroups",
            key=(label("cgroup_id", "u64", help="cgroup (v2) of the process", decode="cgroup"),),
            value=(
                counter("count", unit="processes"),
                counter("failed", unit="processes", help="those with an exit status other than 0"),
                counter("killed", unit="processes", help="those that a signal ended"),
            ),
            help="processes that have ended, by cgroup; those of least use make room",
        ),
    ),
)


@hookimpl
def bpfleet_collectors() -> list[Collector]:
    """The collector of this plugin."""
    return [EXIT]

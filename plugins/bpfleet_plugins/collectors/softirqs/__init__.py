"""softirqs: how often each kind of softirq runs, and how long."""

from __future__ import annotations

from pathlib import Path

from bpfleet import Collector, Map, core, counter, histogram, hookimpl, label

SOFTIRQS = Collector(
    name="softirqs",
    version="1",
    help="Softirqs by vector: how often they run, and how long",
    program=core(Path(__file__).with_name("softirqs.bpf.c")),
    maps=(
        Map(
            "vectors",
            key=(label("vector", "u32", help="as in /proc/softirqs, from 0", decode="enum:HI_SOFTIRQ"),),
            value=(
                counter("count", unit="runs", help="runs that ended"),
                counter("total_ns", unit="ns", help="time in them, hardware interrupts meanwhile included"),
                histogram("slots", 32, unit="ns", help="runs by duration"),
            ),
            help="softirqs by vector",
        ),
    ),
)


@hookimpl
def bpfleet_collectors() -> list[Collector]:
    """The collector of this plugin."""
    return [SOFTIRQS]

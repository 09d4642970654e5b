"""hardirqs: how often the handlers of each interrupt run, and how long."""

from __future__ import annotations

from pathlib import Path

from bpfleet import Collector, Map, core, counter, histogram, hookimpl, label

HARDIRQS = Collector(
    name="hardirqs",
    version="1",
    help="Interrupt handlers by irq and name: how often they run, and how long",
    program=core(Path(__file__).with_name("hardirqs.bpf.c")),
    maps=(
        Map(
            "handlers",
            key=(
                label("irq", "u32", help="the number in /proc/interrupts"),
                label("name", "char[28]", help="the handler's name there, cut to 27 characters"),
            ),
            value=(
                counter("count", unit="runs", help="runs that ended"),
                counter(
                    "not_mine", unit="runs", help="those after which it said that its device had not called"
                ),
                counter("total_ns", unit="ns"),
                histogram("slots", 32, unit="ns", help="runs by duration"),
            ),
            help="interrupt handlers; those that share an irq each have a row",
        ),
    ),
)


@hookimpl
def bpfleet_collectors() -> list[Collector]:
    """The collector of this plugin."""
    return [HARDIRQS]

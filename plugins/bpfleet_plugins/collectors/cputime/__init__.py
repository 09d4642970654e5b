"""cputime: how much CPU time each process uses, and what those that have ended used."""

from __future__ import annotations

from pathlib import Path

from bpfleet import Collector, Map, core, counter, hookimpl, label

CPUTIME = Collector(
    name="cputime",
    version="1",
    help="CPU time by process, and by command of the processes that have ended",
    program=core(Path(__file__).with_name("cputime.bpf.c")),
    maps=(
        Map(
            "processes",
            key=(label("pid", "u32", help="process id (tgid)"),),
            value=(
                counter("cpu_ns", unit="ns", help="time on CPU since the collector was loaded"),
                label("comm", "char[16]", help="name of the process's first thread"),
            ),
            help="CPU time of the processes that are alive",
        ),
        Map(
            "exited",
            key=(label("comm", "char[16]", help="name of the process when it ended"),),
            value=(
                counter("cpu_ns", unit="ns", help="time on CPU of the processes that have ended"),
                counter("count", unit="processes", help="processes that have ended"),
            ),
            help="CPU time of the processes that have ended, by name",
        ),
    ),
    before_snapshot="settle",
)


@hookimpl
def bpfleet_collectors() -> list[Collector]:
    """The collector of this plugin."""
    return [CPUTIME]

"""cputime: how much CPU time each process uses, and what those that have ended used."""

from __future__ import annotations

from pathlib import Path

from bpfleet import Collector, Map, SysFiles, core, counter, hookimpl, label

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
        Map(
            "energy",
            key=(label("zone", "char[32]", help="the zone's directory in /sys/class/powercap"),),
            value=(
                counter("energy_uj", unit="uJ", help="energy used since the collector was loaded"),
                label("name", "char[32]", help="package-0, core, dram, psys, …"),
            ),
            help="energy that the processor's RAPL counters tell; no rows where it has none",
        ),
    ),
    before_snapshot="settle",
    files=(
        SysFiles(
            "energy", "/sys/class/powercap/intel-rapl:*/energy_uj", name="name", most="max_energy_range_uj"
        ),
    ),
)


@hookimpl
def bpfleet_collectors() -> list[Collector]:
    """The collector of this plugin."""
    return [CPUTIME]

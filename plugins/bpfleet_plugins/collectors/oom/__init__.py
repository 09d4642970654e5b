"""oom: processes that the kernel killed for want of memory, by command and cgroup."""

from __future__ import annotations

from pathlib import Path

from bpfleet import Collector, Map, core, counter, hookimpl, label, padding, timestamp

OOM = Collector(
    name="oom",
    version="1",
    help="Processes killed for want of memory, by command and cgroup",
    program=core(Path(__file__).with_name("oom.bpf.c")),
    maps=(
        Map(
            "kills",
            key=(
                label("comm", "char[16]", help="name of the victim's first thread"),
                label("cgroup_id", "u64", help="cgroup (v2) of the victim", decode="cgroup"),
            ),
            value=(
                counter("count", unit="processes", help="victims of the OOM killer"),
                timestamp("last_ns", help="when the last one was chosen, since boot"),
                label("last_pid", "u32", help="process id of the last one"),
                padding(4),
            ),
            help="victims of the OOM killer; those of longest ago make room",
        ),
    ),
    ladders={"victims": ("on_victim", ("on_victim_pid", "on_victim_end"))},
)


@hookimpl
def bpfleet_collectors() -> list[Collector]:
    """The collector of this plugin."""
    return [OOM]

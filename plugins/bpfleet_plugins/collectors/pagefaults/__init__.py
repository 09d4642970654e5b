"""pagefaults: page faults by command; major faults and what is read back from swap, by process."""

from __future__ import annotations

from pathlib import Path

from bpfleet import Attach, Collector, Map, core, counter, hookimpl, label

PAGEFAULTS = Collector(
    name="pagefaults",
    version="1",
    help="Page faults by command; major faults and swap-ins by process",
    program=core(Path(__file__).with_name("pagefaults.bpf.c")),
    maps=(
        Map(
            "faults",
            key=(label("comm", "char[16]", help="command of the thread"),),
            value=(
                counter("user", unit="faults", help="in the program itself"),
                counter("kernel", unit="faults", help="in the kernel, such as a read into new memory"),
                counter("write", unit="faults", help="of both, those of a write; x86 only"),
            ),
            help="page faults by command",
        ),
        Map(
            "processes",
            key=(
                label("pid", "u32", help="process id (tgid)"),
                label("comm", "char[16]", help="command of the thread"),
            ),
            value=(
                counter("major", unit="faults", help="faults that waited for a disk or for swap"),
                counter("swapins", unit="reads", help="reads from swap"),
                counter("swapped_in", unit="bytes", help="bytes that they read"),
            ),
            help="processes that wait for memory; those that did longest ago make room",
        ),
    ),
    attach=(Attach("major_fault", "perf_event", "major-faults", period=1),),
    ladders={
        "faults": (
            ("user_fault", "kernel_fault"),
            Attach("any_fault", "perf_event", "page-faults", period=1),
        )
    },
)


@hookimpl
def bpfleet_collectors() -> list[Collector]:
    """The collector of this plugin."""
    return [PAGEFAULTS]

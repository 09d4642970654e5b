"""biolatency: how long block devices take, by disk and operation."""

from __future__ import annotations

from pathlib import Path

from bpfleet import Collector, Map, core, counter, histogram, hookimpl, label

BIOLATENCY = Collector(
    name="biolatency",
    version="1",
    help="Block I/O by disk and operation: requests, bytes, errors and latency",
    program=core(Path(__file__).with_name("biolatency.bpf.c")),
    maps=(
        Map(
            "disks",
            key=(
                label("dev", "u32", help="the disk: major << 20 | minor", decode="disk"),
                label("op", "u32", help="what is asked for", decode="enum:req_op"),
            ),
            value=(
                counter("count", unit="requests", help="requests that the disk has answered"),
                counter("errors", unit="requests", help="those that it answered with an error"),
                counter("bytes", unit="bytes", help="bytes that were transferred (discarded, for a discard)"),
                counter("queued_ns", unit="ns", help="time in the kernel's queues, before the disk had them"),
                counter("total_ns", unit="ns", help="time that the disk took"),
                histogram("slots", 27, unit="us", help="requests by the time that the disk took"),
            ),
            help="block I/O requests by disk and operation",
        ),
    ),
)


@hookimpl
def bpfleet_collectors() -> list[Collector]:
    """The collector of this plugin."""
    return [BIOLATENCY]

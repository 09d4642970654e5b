"""fileops: what commands do with files, on which file system, how many bytes and how long."""

from __future__ import annotations

from pathlib import Path

from bpfleet import Collector, Map, core, counter, histogram, hookimpl, label

FILEOPS = Collector(
    name="fileops",
    version="1",
    help="Reads, writes, opens and fsyncs of files by command and file system: bytes, errors, latency",
    program=core(Path(__file__).with_name("fileops.bpf.c")),
    maps=(
        Map(
            "operations",
            key=(
                label("comm", "char[16]", help="command of the thread"),
                label("dev", "u32", help="the file system: major << 20 | minor; 0: none", decode="mount"),
                label("op", "char[8]", help="read, write, open or fsync"),
            ),
            value=(
                counter("count", unit="calls"),
                counter("failed", unit="calls", help="calls that returned an error"),
                counter("bytes", unit="bytes", help="bytes read or written"),
                counter("total_ns", unit="ns", help="time from call to return, waiting included"),
                histogram("slots", 36, unit="ns", help="calls by duration"),
            ),
            help="operations on regular files",
        ),
    ),
)


@hookimpl
def bpfleet_collectors() -> list[Collector]:
    """The collector of this plugin."""
    return [FILEOPS]

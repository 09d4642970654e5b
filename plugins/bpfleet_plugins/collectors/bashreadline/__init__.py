"""bashreadline: the lines that people type into bash, for an audit.

What is typed may hold passwords: nothing enables this collector but a configuration that names it.
"""

from __future__ import annotations

from pathlib import Path

from bpfleet import Attach, Collector, Map, core, hookimpl, label, timestamp

BASHREADLINE = Collector(
    name="bashreadline",
    version="1",
    help="Audit: each line typed into bash, with its user; may hold secrets, so runs only where it is named",
    program=core(Path(__file__).with_name("bashreadline.bpf.c")),
    maps=(
        Map(
            "lines",
            key=(),
            value=(
                timestamp("time_ns", help="when Enter was pressed, since boot"),
                label("cgroup_id", "u64", help="cgroup (v2) of the shell", decode="cgroup"),
                label("pid", "u32", help="process id of the shell"),
                label("uid", "u32", help="the user that it runs as", decode="uid"),
                label("comm", "char[16]", help="name of the program"),
                label("cut", "u32", help="1: the line was longer than what is here"),
                label("line", "char[512]", help="as typed, before bash expands anything"),
            ),
            help="lines typed; empty ones are left out",
            event="struct typed",
        ),
    ),
    ladders={
        "line": (
            Attach("on_line", "uretprobe", "/bin/bash", "readline", everywhere=True),
            # Some distributions' bash has readline from a library, as other programs have.
            Attach("on_line", "uretprobe", "readline", "readline", everywhere=True),
        )
    },
)


@hookimpl
def bpfleet_collectors() -> list[Collector]:
    """The collector of this plugin."""
    return [BASHREADLINE]

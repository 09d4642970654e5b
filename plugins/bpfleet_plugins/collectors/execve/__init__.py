"""execve: which programs are started on this host, how often, and which attempts fail."""

from __future__ import annotations

from pathlib import Path

from bpfleet import Collector, Map, core, counter, hookimpl, label

EXECVE = Collector(
    name="execve",
    version="1",
    help="Programs started, by command name; failed attempts by errno",
    program=core(Path(__file__).with_name("execve.bpf.c")),
    maps=(
        Map(
            "counts",
            key=(label("comm", "char[16]", help="the command's name after the exec"),),
            value=(counter("count", unit="execs", help="successful execve and execveat calls"),),
            help="programs started",
        ),
        Map(
            "failures",
            key=(label("errno", "u32", help="why the call failed; 2 is ENOENT"),),
            value=(counter("count", unit="calls", help="failed execve and execveat calls"),),
            help="attempts to start a program that failed",
        ),
    ),
)


@hookimpl
def bpfleet_collectors() -> list[Collector]:
    """The collector of this plugin."""
    return [EXECVE]

"""runqlat: how long threads wait for a CPU, by command and by cgroup."""

from __future__ import annotations

from pathlib import Path

from bpfleet import Collector, CollectorSettings, Field, Map, core, counter, histogram, hookimpl, label

__all__ = ["RUNQLAT", "RunqlatSettings", "bpfleet_collectors"]


class RunqlatSettings(CollectorSettings, frozen=True, kw_only=True):
    """Settings of `[collectors.runqlat]`."""

    cgroups: bool = False
    """Also tell waits by cgroup."""


def _waits() -> tuple[Field, ...]:
    return (
        counter("count", unit="runs", help="times that a thread got a CPU"),
        counter("wait_ns", unit="ns", help="time that threads were runnable and had none before that"),
        histogram("slots", 32, unit="us", help="runs by the wait before them"),
    )


RUNQLAT = Collector(
    name="runqlat",
    version="1",
    help="Run queue latency: how long threads wait for a CPU, by command, and by cgroup if wanted",
    program=core(Path(__file__).with_name("runqlat.bpf.c")),
    maps=(
        Map(
            "commands",
            key=(label("comm", "char[16]", help="name of the process's first thread"),),
            value=_waits(),
            help="waits for a CPU, by command",
        ),
        Map(
            "cgroups",
            key=(label("cgroup_id", "u64", help="cgroup (v2) of the thread", decode="cgroup"),),
            value=_waits(),
            help="waits for a CPU, by cgroup, if `cgroups` is set; those of least use make room",
        ),
    ),
    settings=RunqlatSettings,
    knobs=lambda settings: {"by_cgroup": int(settings.cgroups)},
)


@hookimpl
def bpfleet_collectors() -> list[Collector]:
    """The collector of this plugin."""
    return [RUNQLAT]

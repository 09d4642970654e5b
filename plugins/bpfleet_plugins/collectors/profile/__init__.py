"""profile: what runs on the CPUs, sampled so many times a second on each, by stack and by cgroup."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from bpfleet import Attach, Collector, CollectorSettings, Map, core, counter, hookimpl, label, stack

__all__ = ["PROFILE", "ProfileSettings", "bpfleet_collectors"]


class ProfileSettings(CollectorSettings, frozen=True, kw_only=True):
    """Settings of `[collectors.profile]`."""

    # 99, not 100: so that samples do not keep step with what the kernel's timers make happen.
    frequency: Annotated[int, Meta(ge=1, le=10_000)] = 99
    """Samples a second of each CPU."""
    pid: int = 0
    """Only this process (tgid, as the host sees it); 0: all."""

    def __post_init__(self) -> None:
        if not 0 <= self.pid < 1 << 22:
            raise ValueError(f"pid is {self.pid}; give a process id, or 0 for all processes")


def _places(settings: ProfileSettings) -> Sequence[Attach]:
    return [Attach("on_sample", "perf_event", "cpu-clock", frequency=settings.frequency)]


def _knobs(settings: ProfileSettings) -> Mapping[str, int]:
    # Rounded down, as the kernel does when it makes a period of a frequency.
    return {"only_pid": settings.pid, "sample_ns": 1_000_000_000 // settings.frequency}


_SPENT = (
    counter("samples", unit="samples"),
    counter("cpu_ns", unit="ns", help="CPU time that they stand for: 1 s / frequency each"),
)

PROFILE = Collector(
    name="profile",
    version="2",
    help="CPU profile: kernel and user stacks, sampled on each CPU at a frequency; and samples by cgroup",
    program=core(Path(__file__).with_name("profile.bpf.c")),
    maps=(
        Map(
            "samples",
            key=(
                label("tgid", "u32", help="process id"),
                stack("kernel_stack", "stacks", help="none while the program itself runs"),
                stack("kernel_spilled", "spilled", help="the same, of a stack whose place was taken"),
                stack("user_stack", "stacks", help="none of a kernel thread"),
                stack("user_spilled", "spilled", help="the same, of a stack whose place was taken"),
                label("comm", "char[16]", help="the thread's name"),
            ),
            value=_SPENT,
            help="samples by process and stack",
        ),
        Map(
            "cgroups",
            key=(label("cgroup_id", "u64", help="cgroup (v2) of the thread", decode="cgroup"),),
            value=_SPENT,
            help="samples by cgroup; those of least use make room",
        ),
    ),
    attach=_places,
    settings=ProfileSettings,
    knobs=_knobs,
)


@hookimpl
def bpfleet_collectors() -> list[Collector]:
    """The collector of this plugin."""
    return [PROFILE]

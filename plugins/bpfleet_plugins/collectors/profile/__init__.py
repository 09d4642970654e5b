"""profile: what runs on the CPUs, sampled 99 times a second on each, by stack and by cgroup."""

from __future__ import annotations

from pathlib import Path

from bpfleet import Attach, Collector, CollectorSettings, Map, core, counter, hookimpl, label, stack

__all__ = ["PROFILE", "ProfileSettings", "bpfleet_collectors"]


class ProfileSettings(CollectorSettings, frozen=True, kw_only=True):
    """Settings of `[collectors.profile]`."""

    pid: int = 0
    """Only this process (tgid, as the host sees it); 0: all."""

    def __post_init__(self) -> None:
        if not 0 <= self.pid < 1 << 22:
            raise ValueError(f"pid is {self.pid}; give a process id, or 0 for all processes")


PROFILE = Collector(
    name="profile",
    version="1",
    help="CPU profile: kernel and user stacks, sampled 99 times a second on each CPU; and samples by cgroup",
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
            value=(counter("samples", unit="samples", help="one is 1/99 s of CPU time"),),
            help="samples by process and stack",
        ),
        Map(
            "cgroups",
            key=(label("cgroup_id", "u64", help="cgroup (v2) of the thread", decode="cgroup"),),
            value=(counter("samples", unit="samples"),),
            help="samples by cgroup; those of least use make room",
        ),
    ),
    # 99, not 100: so that samples do not keep step with what the kernel's timers make happen.
    attach=(Attach("on_sample", "perf_event", "cpu-clock", frequency=99),),
    settings=ProfileSettings,
    knobs=lambda settings: {"only_pid": settings.pid},
)


@hookimpl
def bpfleet_collectors() -> list[Collector]:
    """The collector of this plugin."""
    return [PROFILE]

"""offcpu: time that threads spend off their CPU, by command, state and stacks."""

from __future__ import annotations

from pathlib import Path

from bpfleet import Collector, CollectorSettings, Map, core, counter, hookimpl, label, stack

__all__ = ["OFFCPU", "OffcpuSettings", "bpfleet_collectors"]


class OffcpuSettings(CollectorSettings, frozen=True, kw_only=True):
    """Settings of `[collectors.offcpu]`."""

    pid: int = 0
    """Only this process (tgid, as the host sees it); 0: all."""
    preempted: bool = False
    """Also time that a thread only waited for a CPU, after it was preempted or had yielded: state `R`."""

    def __post_init__(self) -> None:
        if not 0 <= self.pid < 1 << 22:
            raise ValueError(f"pid is {self.pid}; give a process id, or 0 for all processes")


OFFCPU = Collector(
    name="offcpu",
    version="1",
    help="Time that threads sleep or are blocked, by command, state, and kernel and user stack",
    program=core(Path(__file__).with_name("offcpu.bpf.c")),
    maps=(
        Map(
            "waits",
            key=(
                label("tgid", "u32", help="process id"),
                stack("kernel_stack", "stacks", help="where in the kernel it left the CPU"),
                stack("kernel_spilled", "spilled", help="the same, of a stack whose place was taken"),
                stack("user_stack", "stacks", help="where in the program"),
                stack("user_spilled", "spilled", help="the same, of a stack whose place was taken"),
                label(
                    "state", "char[4]", help="as ps(1): S sleeps, D is blocked, I idle, T stopped, R runnable"
                ),
                label("comm", "char[16]", help="name of the process's first thread"),
            ),
            value=(
                counter("off_ns", unit="ns", help="from the switch away to the switch back"),
                counter("count", unit="waits"),
            ),
            help="time off CPU, told when the thread is back",
        ),
    ),
    settings=OffcpuSettings,
    knobs=lambda settings: {"only_pid": settings.pid, "preempted": int(settings.preempted)},
)


@hookimpl
def bpfleet_collectors() -> list[Collector]:
    """The collector of this plugin."""
    return [OFFCPU]

"""syscalls: which system calls each command makes, how long they take, and how they fail."""

from __future__ import annotations

from pathlib import Path

from bpfleet import Collector, CollectorSettings, Map, core, counter, histogram, hookimpl, label

_NUMBER = "2^29 more: a 32-bit call; 2^30 more: x32"


class SyscallsSettings(CollectorSettings, frozen=True, kw_only=True):
    """Settings of `[collectors.syscalls]`."""

    pid: int = 0
    """Only this process (tgid, as the host sees it); 0: all."""

    def __post_init__(self) -> None:
        if not 0 <= self.pid < 1 << 22:
            raise ValueError(f"pid is {self.pid}; a process id is below 4194304, and 0 means all")


SYSCALLS = Collector(
    name="syscalls",
    version="1",
    help="System calls by command: how many, how long, and which errors",
    program=core(Path(__file__).with_name("syscalls.bpf.c")),
    maps=(
        Map(
            "calls",
            key=(
                label("comm", "char[16]", help="command of the thread when the call ended"),
                label("nr", "u32", help=f"the call's number; {_NUMBER}", decode="syscall"),
            ),
            value=(
                counter("count", unit="calls", help="calls that ended"),
                counter("failed", unit="calls", help="those that returned an error"),
                counter("total_ns", unit="ns", help="time from call to return, waiting included"),
                histogram("slots", 36, unit="ns", help="calls by duration"),
            ),
            help="system calls that ended",
        ),
        Map(
            "errors",
            key=(
                label("comm", "char[16]", help="command of the thread"),
                label("nr", "u32", help=f"the call's number; {_NUMBER}", decode="syscall"),
                label("error", "u32", help="the error; 512 and up are the kernel's own", decode="errno"),
            ),
            value=(counter("count", unit="calls"),),
            help="system calls that returned an error, by error",
        ),
    ),
    settings=SyscallsSettings,
    knobs=lambda settings: {"only_pid": settings.pid},
)


@hookimpl
def bpfleet_collectors() -> list[Collector]:
    """The collector of this plugin."""
    return [SYSCALLS]

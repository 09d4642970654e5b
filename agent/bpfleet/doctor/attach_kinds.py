"""The ways to attach a program, each as a probe that attaches one which counts events.

This process makes the events: it sends itself a signal that is ignored, asks for its process group and its
parent. Most kinds see other processes' too.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bpfleet.btf_types import Kind
from bpfleet.doctor.bpf_calls import (
    Counter,
    attach_to_event,
    load,
    perf_event,
    raw_open,
    run_iterator,
    watch_functions,
)
from bpfleet.kernel import run_program

__all__ = ["EVENT_SOURCES", "KINDS", "TYPES", "AttachKind", "NotHere", "Probed", "stir"]

EVENT_SOURCES = Path("/sys/bus/event_source/devices")
"""Each folder is a kind of perf event that this kernel has."""

# enum bpf_prog_type and enum bpf_attach_type of linux/bpf.h.
_KPROBE, _TRACEPOINT, _PERF_EVENT, _RAW_TRACEPOINT, _TRACING, _LSM, _SYSCALL = 2, 5, 7, 17, 26, 29, 31
_RAW_TP, _FENTRY, _FEXIT, _LSM_MAC, _ITER, _MULTI = 23, 24, 25, 27, 28, 42
_SLEEPABLE = 1 << 4
_HARDWARE, _SOFTWARE, _TRACEPOINT_EVENT = 0, 1, 2
_EVENTS = Path("/sys/kernel/tracing/events")

_FUNCTIONS = ("do_send_sig_info", "security_task_getpgid", "__do_sys_getppid")
"""Kernel functions that `stir` calls; the first that BTF has is taken."""
TYPES = {
    "btf_trace_signal_generate": Kind.TYPEDEF,
    "bpf_lsm_task_getpgid": Kind.FUNC,
    "bpf_iter_task": Kind.FUNC,
    **dict.fromkeys(_FUNCTIONS, Kind.FUNC),
}
"""What the probes look up in the kernel's BTF."""


class NotHere(Exception):
    """Raised with the reason why a kind can't be had, where that is no errno."""


@dataclass
class Probed:
    """What a probe needs to know of this kernel: ids of `TYPES` in its BTF; and its own counter."""

    ids: Mapping[str, int]
    counter: Counter = field(default_factory=Counter)

    def id(self, name: str) -> int:
        """The BTF id of a type; raises NotHere."""
        if name not in self.ids:
            raise NotHere(f"the kernel's BTF has no {name}" if self.ids else "the kernel has no BTF")
        return self.ids[name]

    @property
    def function(self) -> str:
        """A kernel function that `stir` calls."""
        return next((name for name in _FUNCTIONS if name in self.ids), _FUNCTIONS[0])


@dataclass(frozen=True)
class AttachKind:
    """One way. `attach` raises OSError or NotHere; `options` must be in the kernel's configuration;
    `instead` is what else would do."""

    name: str
    attach: Callable[[Probed], None]
    options: tuple[str, ...]
    instead: str
    detail: str = "sees events"
    tracing: bool = False
    """Whether this one alone lets collectors see something."""


def _pmu(name: str) -> int:
    try:
        return int((EVENT_SOURCES / name / "type").read_text())
    except OSError:
        raise NotHere(f"the kernel has no event source {name}") from None


def _tracepoint(place: str) -> Callable[[Probed], None]:
    def attach(kernel: Probed) -> None:
        try:
            number = int((_EVENTS / place / "id").read_text())
        except OSError as error:
            raise NotHere(f"{_EVENTS / place}: {error.strerror}") from None
        attach_to_event(load(_TRACEPOINT, kernel.counter), perf_event(_TRACEPOINT_EVENT, number))

    return attach


def _raw_tracepoint(kernel: Probed) -> None:
    raw_open(load(_RAW_TRACEPOINT, kernel.counter), "signal_generate")


def _by_btf(kind: int, expected: int, name: str) -> Callable[[Probed], None]:
    def attach(kernel: Probed) -> None:
        btf_id = kernel.id(name or kernel.function)
        raw_open(load(kind, kernel.counter, expected=expected, btf_id=btf_id))

    return attach


def _iterator(kernel: Probed) -> None:
    run_iterator(load(_TRACING, kernel.counter, expected=_ITER, btf_id=kernel.id("bpf_iter_task")))


def _syscall_program(kernel: Probed) -> None:
    run_program(load(_SYSCALL, kernel.counter, flags=_SLEEPABLE))


def _clock(kernel: Probed) -> None:
    attach_to_event(load(_PERF_EVENT, kernel.counter), perf_event(_SOFTWARE, every=1_000_000))


def _cycles(kernel: Probed) -> None:
    attach_to_event(load(_PERF_EVENT, kernel.counter), perf_event(_HARDWARE, every=1_000_000))


def _probe_of_function(returning: int) -> Callable[[Probed], None]:
    def attach(kernel: Probed) -> None:
        event = perf_event(_pmu("kprobe"), returning, name=kernel.function)
        attach_to_event(load(_KPROBE, kernel.counter), event)

    return attach


def _multi(kernel: Probed) -> None:
    watch_functions(load(_KPROBE, kernel.counter, expected=_MULTI), kernel.function)


def _probe_of_library(returning: int) -> Callable[[Probed], None]:
    def attach(kernel: Probed) -> None:
        path, offset = _getppid_in_libc()
        event = perf_event(_pmu("uprobe"), returning, name=path, offset=offset)
        attach_to_event(load(_KPROBE, kernel.counter), event)

    return attach


def _getppid_in_libc() -> tuple[str, int]:
    """The file that holds this process's getppid(3), and the offset in it."""
    address = ctypes.cast(ctypes.CDLL(None).getppid, ctypes.c_void_p).value or 0
    for line in Path("/proc/self/maps").read_text().splitlines():
        extent, _, offset, _, _, *path = line.split(maxsplit=5)
        start, end = (int(part, 16) for part in extent.split("-"))
        if start <= address < end and path:
            return path[0], address - start + int(offset, 16)
    raise NotHere("getppid is in no mapped file")


def stir() -> None:
    """Make every event that the probes wait for; takes 1 ms of CPU time."""
    os.kill(os.getpid(), signal.SIGWINCH)  # ignored by default
    os.getpgid(os.getpid())  # of 0 the kernel asks no LSM
    os.getppid()
    until = time.monotonic() + 0.001
    while time.monotonic() < until:
        pass


_TRAMPOLINES = ("FUNCTION_TRACER", "DYNAMIC_FTRACE_WITH_DIRECT_CALLS")
_LEFT_OUT = "collectors that need it are left out"
KINDS = (
    AttachKind(
        "tracepoint",
        _tracepoint("signal/signal_generate"),
        ("TRACEPOINTS", "BPF_EVENTS", "PERF_EVENTS"),
        "use raw_tp or tp_btf instead, which need no tracefs",
        tracing=True,
    ),
    AttachKind(
        "syscall tracepoint",
        _tracepoint("syscalls/sys_enter_getppid"),
        ("FTRACE_SYSCALLS",),
        "use raw_tp/sys_enter instead",
        "syscalls:sys_enter_… sees events",
    ),
    AttachKind("raw_tp", _raw_tracepoint, ("BPF_EVENTS",), "use tracepoint instead", tracing=True),
    AttachKind(
        "tp_btf",
        _by_btf(_TRACING, _RAW_TP, "btf_trace_signal_generate"),
        ("DEBUG_INFO_BTF",),
        "it needs Linux 5.5 with BTF; use raw_tp instead",
        tracing=True,
    ),
    AttachKind(
        "fentry",
        _by_btf(_TRACING, _FENTRY, ""),
        _TRAMPOLINES,
        "use tp_btf or kprobe instead",
        tracing=True,
    ),
    AttachKind("fexit", _by_btf(_TRACING, _FEXIT, ""), _TRAMPOLINES, "use tp_btf or kretprobe instead"),
    AttachKind(
        "kprobe",
        _probe_of_function(0),
        ("KPROBES", "KPROBE_EVENTS"),
        "use tp_btf or fentry instead",
        tracing=True,
    ),
    AttachKind(
        "kretprobe",
        _probe_of_function(1),
        ("KPROBES", "KRETPROBES", "KPROBE_EVENTS"),
        "use tp_btf or fexit instead",
    ),
    AttachKind("kprobe.multi", _multi, ("FPROBE",), "it needs Linux 5.18; attach to each function by itself"),
    AttachKind(
        "uprobe",
        _probe_of_library(0),
        ("UPROBE_EVENTS",),
        _LEFT_OUT,
        "sees events; USDT works by it too",
        tracing=True,
    ),
    AttachKind("uretprobe", _probe_of_library(1), ("UPROBE_EVENTS",), _LEFT_OUT),
    AttachKind("perf_event", _clock, ("PERF_EVENTS",), _LEFT_OUT, "a software clock samples"),
    AttachKind(
        "hardware counters",
        _cycles,
        (),
        "sample by the software clock; virtual machines often have no counters",
        "cycles sample",
    ),
    AttachKind(
        "LSM",
        _by_btf(_LSM, _LSM_MAC, "bpf_lsm_task_getpgid"),
        ("BPF_LSM", *_TRAMPOLINES),
        "boot with bpf among lsm=…, on a kernel with CONFIG_BPF_LSM",
    ),
    AttachKind("iter", _iterator, (), "it needs Linux 5.8 with BTF", "iter/task runs"),
    AttachKind(
        "syscall program",
        _syscall_program,
        (),
        "it needs Linux 5.14; without it maps are read by batch, and before_snapshot programs can't be run",
        "runs when it is asked to",
    ),
)

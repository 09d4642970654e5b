"""What a program can be attached to on this kernel: each kind is loaded, attached, and has to see an event.

The events are this process's own: it sends itself a signal that nobody acts on, asks for its process group and
its parent. Kinds that a kernel lacks are told with the reason that its configuration gives.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
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
from bpfleet.doctor.finding import Finding, Subject, missing, ok, unseen, warn
from bpfleet.doctor.kernel_btf import type_ids
from bpfleet.doctor.kernel_config import read_config
from bpfleet.errors import BpfleetError
from bpfleet.kernel import run_program
from bpfleet.loader.tracing_mounts import mount_privately

__all__ = ["attaching"]

# enum bpf_prog_type and enum bpf_attach_type of linux/bpf.h.
_KPROBE, _TRACEPOINT, _PERF_EVENT, _RAW_TRACEPOINT, _TRACING, _LSM, _SYSCALL = 2, 5, 7, 17, 26, 29, 31
_RAW_TP, _FENTRY, _FEXIT, _LSM_MAC, _ITER, _MULTI = 23, 24, 25, 27, 28, 42
_SLEEPABLE = 1 << 4
_HARDWARE, _SOFTWARE, _TRACEPOINT_EVENT = 0, 1, 2
_PMUS = Path("/sys/bus/event_source/devices")
_EVENTS = Path("/sys/kernel/tracing/events")

_FUNCTIONS = ("do_send_sig_info", "security_task_getpgid", "__do_sys_getppid")
"""Kernel functions that `_stir` calls; the first that BTF has is taken."""
_IDS = (
    (Kind.TYPEDEF, "btf_trace_signal_generate"),
    (Kind.FUNC, "bpf_lsm_task_getpgid"),
    (Kind.FUNC, "bpf_iter_task"),
    *((Kind.FUNC, name) for name in _FUNCTIONS),
)
_SECONDS_TO_WAIT = 0.2


class _NotHereError(Exception):
    """The reason why a kind can't be had, where it is no errno."""


@dataclass
class _Kernel:
    """What the probes need to know of this kernel, and a counter for each."""

    ids: Mapping[str, int]
    config: Mapping[str, str] | None
    counter: Counter = field(default_factory=Counter)

    def id(self, name: str) -> int:
        if name not in self.ids:
            raise _NotHereError(f"the kernel's BTF has no {name}" if self.ids else "the kernel has no BTF")
        return self.ids[name]

    @property
    def function(self) -> str:
        return next((name for name in _FUNCTIONS if name in self.ids), _FUNCTIONS[0])


@dataclass(frozen=True)
class _Kind:
    """A way to attach: what it is for, what has to be in the kernel's configuration, what else would do."""

    name: str
    use: str
    attach: Callable[[_Kernel], None]
    options: tuple[str, ...] = ()
    instead: str = ""


def attaching(subject: Subject) -> Iterator[Finding]:
    """One finding for each kind."""
    if not subject.root:
        yield _event_sources()
        return
    try:
        mount_privately()
    except BpfleetError:
        pass  # told under mounts; here tracepoints say what they lack
    try:
        ids = type_ids(_IDS)
    except (OSError, ValueError):
        ids = {}  # told under kernel
    config = read_config()
    options = None if config is None else config.options
    found = []
    for kind in _KINDS:
        one = _probe(kind, ids, options)
        found.append(one)
        yield one
    attached = [one for one in found if one.what in _ENOUGH and one.state.value == "ok"]
    if not attached:
        yield missing(
            "any tracing",
            "no program can be attached to anything that collectors use",
            "run as root on the host (in a container: privileged), on a kernel with CONFIG_BPF_EVENTS; "
            "in lockdown=confidentiality mode there is no tracing",
        )


def _probe(kind: _Kind, ids: Mapping[str, int], options: Mapping[str, str] | None) -> Finding:
    try:
        kernel = _Kernel(ids, options)
        kind.attach(kernel)
        deadline = time.monotonic() + _SECONDS_TO_WAIT
        while not kernel.counter.events and time.monotonic() < deadline:
            _stir()
        if kernel.counter.events:
            return ok(kind.name, kind.use)
        why = "it attaches, and sees no event"
    except _NotHereError as error:
        why = str(error)
    except OSError as error:
        why = f"the kernel refuses: {error.strerror}"
    unset = [name for name in kind.options if options is not None and options.get(name, "n") == "n"]
    if unset:
        why = (
            f"CONFIG_{unset[0]} is not set"
            if "refuses" not in why
            else f"{why} (CONFIG_{unset[0]} is not set)"
        )
    return warn(kind.name, f"not here: {why}", kind.instead or "collectors that need it are left out")


def _event_sources() -> Finding:
    there = [name for name in ("tracepoint", "uprobe", "kprobe", "software") if (_PMUS / name).exists()]
    return unseen("attaching", f"needs root; the kernel has event sources {', '.join(there) or 'unknown'}")


# ---- the kinds


def _pmu(name: str) -> int:
    try:
        return int((_PMUS / name / "type").read_text())
    except OSError:
        raise _NotHereError(f"the kernel has no event source {name}") from None


def _tracepoint(place: str) -> Callable[[_Kernel], None]:
    def attach(kernel: _Kernel) -> None:
        try:
            number = int((_EVENTS / place / "id").read_text())
        except OSError as error:
            raise _NotHereError(f"{_EVENTS / place}: {error.strerror}") from None
        attach_to_event(load(_TRACEPOINT, kernel.counter), perf_event(_TRACEPOINT_EVENT, number))

    return attach


def _raw_tracepoint(kernel: _Kernel) -> None:
    raw_open(load(_RAW_TRACEPOINT, kernel.counter), "signal_generate")


def _by_btf(kind: int, expected: int, name: str) -> Callable[[_Kernel], None]:
    def attach(kernel: _Kernel) -> None:
        btf_id = kernel.id(name or kernel.function)
        raw_open(load(kind, kernel.counter, expected=expected, btf_id=btf_id))

    return attach


def _iterator(kernel: _Kernel) -> None:
    run_iterator(load(_TRACING, kernel.counter, expected=_ITER, btf_id=kernel.id("bpf_iter_task")))


def _syscall_program(kernel: _Kernel) -> None:
    run_program(load(_SYSCALL, kernel.counter, flags=_SLEEPABLE))


def _clock(kernel: _Kernel) -> None:
    attach_to_event(load(_PERF_EVENT, kernel.counter), perf_event(_SOFTWARE, every=1_000_000))


def _cycles(kernel: _Kernel) -> None:
    attach_to_event(load(_PERF_EVENT, kernel.counter), perf_event(_HARDWARE, every=1_000_000))


def _probe_of_function(returning: int) -> Callable[[_Kernel], None]:
    def attach(kernel: _Kernel) -> None:
        event = perf_event(_pmu("kprobe"), returning, name=kernel.function)
        attach_to_event(load(_KPROBE, kernel.counter), event)

    return attach


def _multi(kernel: _Kernel) -> None:
    watch_functions(load(_KPROBE, kernel.counter, expected=_MULTI), kernel.function)


def _probe_of_library(returning: int) -> Callable[[_Kernel], None]:
    def attach(kernel: _Kernel) -> None:
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
    raise _NotHereError("getppid is in no mapped file")


def _stir() -> None:
    """Make every event that the probes wait for; takes 1 ms, of which some is spent counting."""
    os.kill(os.getpid(), signal.SIGWINCH)  # ignored by default
    os.getpgid(0)
    os.getppid()
    until = time.monotonic() + 0.001
    while time.monotonic() < until:
        pass


_TRAMPOLINES = ("FUNCTION_TRACER", "DYNAMIC_FTRACE_WITH_DIRECT_CALLS")
_KINDS = (
    _Kind(
        "tracepoint",
        "sees events",
        _tracepoint("signal/signal_generate"),
        ("TRACEPOINTS", "BPF_EVENTS", "PERF_EVENTS"),
        "raw_tp and tp_btf need no tracefs: list them as alternatives",
    ),
    _Kind(
        "syscall tracepoint",
        "sees events (syscalls:sys_enter_*)",
        _tracepoint("syscalls/sys_enter_getppid"),
        ("FTRACE_SYSCALLS",),
        "use raw_tp/sys_enter instead",
    ),
    _Kind("raw_tp", "sees events", _raw_tracepoint, ("BPF_EVENTS",), "list tracepoint as an alternative"),
    _Kind(
        "tp_btf",
        "sees events",
        _by_btf(_TRACING, _RAW_TP, "btf_trace_signal_generate"),
        ("DEBUG_INFO_BTF",),
        "needs Linux 5.5 with BTF; list raw_tp as an alternative",
    ),
    _Kind(
        "fentry",
        "sees events",
        _by_btf(_TRACING, _FENTRY, ""),
        _TRAMPOLINES,
        "list tp_btf or kprobe as an alternative",
    ),
    _Kind(
        "fexit",
        "sees events",
        _by_btf(_TRACING, _FEXIT, ""),
        _TRAMPOLINES,
        "list tp_btf or kretprobe as an alternative",
    ),
    _Kind(
        "kprobe",
        "sees events",
        _probe_of_function(0),
        ("KPROBES",),
        "list tp_btf or fentry as an alternative",
    ),
    _Kind("kretprobe", "sees events", _probe_of_function(1), ("KPROBES",), "list fexit as an alternative"),
    _Kind(
        "kprobe.multi", "sees events", _multi, ("FPROBE",), "needs Linux 5.18; list kprobe as an alternative"
    ),
    _Kind("uprobe", "sees events (USDT too)", _probe_of_library(0), ("UPROBE_EVENTS",)),
    _Kind("uretprobe", "sees events", _probe_of_library(1), ("UPROBE_EVENTS",)),
    _Kind("perf_event", "sampling by a software clock sees events", _clock, ("PERF_EVENTS",)),
    _Kind(
        "hardware counters",
        "cycles are counted",
        _cycles,
        (),
        "sample by the software clock; virtual machines often have no counters",
    ),
    _Kind(
        "LSM",
        "sees events",
        _by_btf(_LSM, _LSM_MAC, "bpf_lsm_task_getpgid"),
        ("BPF_LSM", *_TRAMPOLINES),
        "boot with bpf in lsm=…, on a kernel with CONFIG_BPF_LSM",
    ),
    _Kind("iter", "iter/task runs", _iterator, (), "needs Linux 5.8 with BTF"),
    _Kind(
        "syscall program",
        "runs when it is asked to",
        _syscall_program,
        (),
        "needs Linux 5.14; without, maps are read by batch, and before_snapshot programs can't be run",
    ),
)
_ENOUGH = {"tracepoint", "raw_tp", "tp_btf", "fentry", "kprobe", "uprobe"}
"""With none of these no collector can see anything."""

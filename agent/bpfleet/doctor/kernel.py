"""The kernel itself: release, BTF, configuration, preemption, JIT, lockdown."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path

from bpfleet.btf_types import Kind
from bpfleet.doctor.finding import Finding, Subject, missing, ok, unseen, warn
from bpfleet.doctor.kernel_btf import ELSEWHERE, KERNEL_BTF, type_ids
from bpfleet.doctor.kernel_config import KernelConfig, read_config
from bpfleet.doctor.mounts import look_into

__all__ = ["btf", "configuration", "jit", "lockdown", "preemption", "release", "release_numbers"]

_FEATURES = (
    # since, what for, what to expect without
    ((5, 6), "batch reads", "maps are read key by key, which is slow and may miss rows under churn"),
    ((5, 14), "walks by the snapshot program", "maps are read by batch"),
    ((6, 0), "reading without CAP_BPF", "the worker keeps CAP_BPF"),
)
_OLDEST = (5, 8)
"""CAP_BPF: before it only root can read maps, and the worker is not root."""

_OPTIONS = {
    "BPF_SYSCALL": "no BPF at all",
    "BPF_EVENTS": "no tracing by BPF",
    "BPF_JIT": "programs are interpreted",
    "DEBUG_INFO_BTF": "no CO-RE",
    "PERF_EVENTS": "no tracepoints, probes or sampling",
    "FTRACE_SYSCALLS": "no syscall tracepoints",
    "UPROBE_EVENTS": "no uprobes, no USDT",
    "KPROBES": "no kprobes",
    "FPROBE": "no kprobe.multi",
    "FUNCTION_TRACER": "no fentry",
    "DYNAMIC_FTRACE_WITH_DIRECT_CALLS": "no fentry",
    "BPF_LSM": "no LSM programs",
    "CGROUP_BPF": "no cgroup programs",
}


def release_numbers(release: str = "") -> tuple[int, int]:
    """(6, 18) of the running kernel's, or of `release`'s "6.18.3-generic"."""
    found = re.match(r"(\d+)\.(\d+)", release or platform.release())
    return (int(found.group(1)), int(found.group(2))) if found else (0, 0)


def release(subject: Subject) -> Iterator[Finding]:
    """What the kernel's version promises; distributions backport, so what was tried counts for more."""
    yield judge_release(platform.release())


def judge_release(name: str) -> Finding:
    """The finding for a kernel of that release."""
    numbers = release_numbers(name)
    has = [f"{what} ({_dotted(since)})" for since, what, _ in _FEATURES if numbers >= since]
    lacks = [f"{what} ({_dotted(since)}): {without}" for since, what, without in _FEATURES if numbers < since]
    detail = f"{name}: " + "; ".join(
        [*([f"has {', '.join(has)}"] if has else []), *([f"lacks {', '.join(lacks)}"] if lacks else [])]
    )
    if numbers < _OLDEST:
        return missing("release", detail, "run Linux 5.8 or later; 5.14 or later for the fastest reads")
    if lacks:
        return warn("release", detail, f"run Linux {_dotted(_FEATURES[-1][0])} or later")
    return ok("release", detail)


def btf(subject: Subject) -> Iterator[Finding]:
    """The kernel's own types, which CO-RE programs are fitted to."""
    remedy = "run a kernel with CONFIG_DEBUG_INFO_BTF=y, and mount sysfs on /sys"
    try:
        size = KERNEL_BTF.stat().st_size
        if not type_ids({"task_struct": Kind.STRUCT}):
            raise ValueError("it has no struct task_struct")
    except OSError as error:
        there = [place.format(platform.release()) for place in ELSEWHERE]
        other = next((place for place in there if os.path.exists(place)), None)
        detail = f"{KERNEL_BTF}: {error.strerror}"
        if other is None:
            yield missing("BTF", f"{detail}: no CO-RE program can be loaded", remedy)
        else:
            yield warn("BTF", f"{detail}; libbpf tries {other} instead", remedy)
    except ValueError as error:
        yield missing("BTF", f"{KERNEL_BTF} can't be used: {error}", remedy)
    else:
        yield ok("BTF", f"{KERNEL_BTF}, {size / 1e6:.1f} MB")


def configuration(subject: Subject) -> Iterator[Finding]:
    """The options that matter, where the kernel's configuration can be read."""
    config = read_config()
    if config is None:
        yield ok("config", "not readable on this host; nothing depends on it, what follows was tried")
        return
    yield judge_config(config)


def judge_config(config: KernelConfig) -> Finding:
    """The finding for a kernel of that configuration."""
    unset = {name: without for name, without in _OPTIONS.items() if config.options.get(name, "n") == "n"}
    if not unset:
        return ok("config", f"{config.place}: every option that matters is set")
    told = ", ".join(f"{name} ({without})" for name, without in unset.items())
    return warn(
        "config",
        f"{config.place}: not set are {told}",
        "run a kernel that has them, where collectors need them",
    )


def preemption(subject: Subject) -> Iterator[Finding]:
    """Whether a walk, one stretch of kernel time, delays others on its CPU."""
    model, source = _preemption_model(subject.root)
    if model is None:
        yield ok("preemption", "the model can't be told; walk_limit bounds what a walk may delay")
    elif model in ("none", "voluntary"):
        yield ok("preemption", f"{model} ({source}): a walk delays others on its CPU, walk_limit bounds that")
    else:
        yield ok("preemption", f"{model} ({source}): a walk gives way to others")


def _preemption_model(root: bool) -> tuple[str | None, str]:
    """(model, where from): what the scheduler says now, else how the kernel was booted, else was built."""
    if root and look_into("debugfs", "/sys/kernel/debug"):
        try:
            said = Path("/sys/kernel/debug/sched/preempt").read_text()
        except OSError:
            said = ""
        if found := re.search(r"\((\w+)\)", said):
            return found.group(1), "now"
    if Path("/sys/kernel/realtime").exists():
        return "realtime", "now"
    config = read_config()
    options = {} if config is None else config.options
    try:
        asked = re.search(r"(?:^|\s)preempt=(\w+)", Path("/proc/cmdline").read_text())
    except OSError:
        asked = None
    if asked and "PREEMPT_DYNAMIC" in platform.version():
        return asked.group(1), "kernel's command line"
    for name, model in (
        ("PREEMPT_RT", "realtime"),
        ("PREEMPT", "full"),
        ("PREEMPT_LAZY", "lazy"),
        ("PREEMPT_VOLUNTARY", "voluntary"),
        ("PREEMPT_NONE", "none"),
    ):
        if options.get(name) == "y":
            return model, "kernel's configuration"
    return None, ""


def jit(subject: Subject) -> Iterator[Finding]:
    """Whether programs are compiled to machine code."""
    place = Path("/proc/sys/net/core/bpf_jit_enable")
    try:
        enabled = place.read_text().strip()
    except PermissionError:
        yield unseen("bpf_jit_enable", "only root may read it")
        return
    except OSError:
        config = read_config()
        if config is not None and config.options.get("BPF_JIT_ALWAYS_ON") == "y":
            yield ok("bpf_jit_enable", "always on in this kernel")
        else:
            yield unseen(
                "bpf_jit_enable", f"there is no {place} here", "look on the host, outside any container"
            )
        return
    if enabled == "0":
        remedy = "sysctl -w net.core.bpf_jit_enable=1"
        yield warn("bpf_jit_enable", "0: programs are interpreted, several times slower", remedy)
    else:
        yield ok("bpf_jit_enable", f"{enabled}: programs run as machine code")


def lockdown(subject: Subject) -> Iterator[Finding]:
    """Lockdown's mode: confidentiality keeps BPF from reading kernel memory."""
    place = Path("/sys/kernel/security/lockdown")
    there = subject.root and look_into("securityfs", "/sys/kernel/security")
    try:
        said = place.read_text()
    except PermissionError:
        yield unseen("lockdown", "only root may read it")
        return
    except OSError:
        if there or "securityfs" not in Path("/proc/filesystems").read_text():
            yield ok("lockdown", "this kernel has none, or it is not active")
        else:
            yield unseen("lockdown", "securityfs is not mounted, and can't be by this process")
        return
    yield judge_lockdown(said)


def judge_lockdown(said: str) -> Finding:
    """The finding for what the kernel's file says, such as "none [integrity] confidentiality"."""
    found = re.search(r"\[(\w+)\]", said)
    mode = found.group(1) if found else said.strip()
    if mode == "confidentiality":
        remedy = "boot with lockdown=integrity, or without Secure Boot's lockdown"
        return missing("lockdown", f"{mode}: BPF may not read kernel memory, so no tracing", remedy)
    return ok("lockdown", f"{mode}: tracing is not restricted by it")


def _dotted(numbers: tuple[int, int]) -> str:
    return f"{numbers[0]}.{numbers[1]}"

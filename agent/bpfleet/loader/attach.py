"""The one place where programs of libbpf's dialect are attached: one function per kind.

A new attach kind is one function and one line in `_KINDS`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

from bpfleet.attach_points import attach_point
from bpfleet.errors import AttachError
from bpfleet.loader.attach_network import attach_cgroup, attach_socket, attach_tcx, attach_xdp
from bpfleet.loader.attach_perf import attach_perf_event
from bpfleet.loader.libbpf import ProgramHandle, library
from bpfleet.loader.linking import Links, link, refused
from bpfleet.loader.symbols import binary_of
from bpfleet.loader.uprobes import UPROBE_KINDS, attach_uprobe
from bpfleet.spec import Attach

__all__ = ["attach_by_section", "attach_program", "set_target", "why_nowhere"]

_FIXED_AT_LOAD = ("tp_btf", "fentry", "fexit", "fmod_ret", "lsm")
_KPROBES = ("kprobe", "kretprobe", "ksyscall", "kretsyscall")
_WHERE_KPROBES_ARE = (
    Path("/sys/bus/event_source/devices/kprobe"),
    Path("/sys/kernel/tracing/kprobe_events"),
)
_TRACEPOINTS = "see /sys/kernel/tracing/events for this kernel's tracepoints"
_SYSCALLS = "name a system call without its prefix, such as openat"
_FUNCTIONS = "see /proc/kallsyms for this kernel's functions, and bpfleet doctor for what it can attach to"


def why_nowhere(program: ProgramHandle) -> str:
    """Why the section alone does not attach it, as of a kind without a place (`SEC("xdp")`); empty where it
    does."""
    point = attach_point(program.section)
    if point.kind.startswith(_ONLY_LOADED):
        return "it is only loaded: the agent has nothing to attach programs of this kind to"
    if point.kind == "iter" and point.target in _THROUGH_ONE_MAP:
        return "nothing says which map it goes through"
    named = point.symbol if point.kind in (*UPROBE_KINDS, "usdt") else point.target
    return "" if named or point.kind in _NEED_NO_TARGET else "nothing says where to"


def attach_by_section(program: ProgramHandle) -> Links:
    """Attach where the section's name says, as libbpf does; raises AttachError."""
    point = attach_point(program.section)
    if point.kind in UPROBE_KINDS:
        place = f"{point.symbol}+{point.offset:#x}" if point.offset else point.symbol
        return attach_uprobe(program, Attach(program.name, point.kind, point.target, place))
    if point.kind in _KPROBES:
        _refuse_without_kprobes(program, program.section)
    remedy = _probes_of(point.target) if point.kind == "usdt" else _REMEDIES.get(point.kind, "")
    return link(lambda: library().bpf_program__attach(program.handle), program, program.section, remedy)


def _probes_of(path: object) -> str:
    return f"readelf -n {path} lists its probes, as provider and name"


def _refuse_without_kprobes(program: ProgramHandle, place: str) -> None:
    if not any(path.exists() for path in _WHERE_KPROBES_ARE):
        raise refused(
            program,
            place,
            "take a tracepoint or fentry, or a kernel with CONFIG_KPROBES",
            reason="this kernel has no kprobes",
        )


def attach_program(program: ProgramHandle, wanted: Attach) -> Links:
    """Attach as `wanted` says; raises AttachError naming program and place."""
    kind = _KINDS.get(wanted.kind)
    if kind is None:
        raise AttachError(
            f"program {program.name!r}: there is no attach kind {wanted.kind!r}",
            where=f"attach list, {wanted.target}",
            remedy=f"use one of {', '.join(_KINDS)}",
        )
    return kind(program, wanted)


def set_target(program: ProgramHandle, wanted: Attach) -> None:
    """Before load: tell the kernel the function or tracepoint of a kind whose target load fixes."""
    if wanted.kind in _FIXED_AT_LOAD:
        library().bpf_program__set_attach_target(program.handle, 0, wanted.target.encode())


def _tracepoint(program: ProgramHandle, wanted: Attach) -> Links:
    group, _, name = wanted.target.replace("/", ":").partition(":")
    return link(
        lambda: library().bpf_program__attach_tracepoint(program.handle, group.encode(), name.encode()),
        program,
        f"tracepoint {group}:{name}",
        _TRACEPOINTS,
    )


def _raw_tracepoint(program: ProgramHandle, wanted: Attach) -> Links:
    return link(
        lambda: library().bpf_program__attach_raw_tracepoint(program.handle, wanted.target.encode()),
        program,
        f"raw tracepoint {wanted.target}",
        _TRACEPOINTS,
    )


def _options(*values: tuple[str, type, object]) -> ctypes.Structure:
    """A `struct bpf_…_opts` of libbpf: its size, then these members (name, type, value)."""

    class Options(ctypes.Structure):
        _fields_ = (("sz", ctypes.c_size_t), *((name, kind) for name, kind, _ in values))

    return Options(ctypes.sizeof(Options), *(value for _, _, value in values))


def _kprobe(program: ProgramHandle, wanted: Attach) -> Links:
    _refuse_without_kprobes(program, f"{wanted.kind} {wanted.target}")
    function, _, offset = wanted.target.partition("+")
    options = _options(
        ("bpf_cookie", ctypes.c_uint64, 0),
        ("offset", ctypes.c_size_t, int(offset or "0", 0)),
        ("retprobe", ctypes.c_bool, wanted.kind == "kretprobe"),
    )
    return link(
        lambda: library().bpf_program__attach_kprobe_opts(
            program.handle, function.encode(), ctypes.byref(options)
        ),
        program,
        f"{wanted.kind} {wanted.target}",
        _FUNCTIONS,
    )


def _kprobe_multi(program: ProgramHandle, wanted: Attach) -> Links:
    options = _options(
        ("syms", ctypes.c_void_p, None),
        ("addrs", ctypes.c_void_p, None),
        ("cookies", ctypes.c_void_p, None),
        ("cnt", ctypes.c_size_t, 0),
        ("retprobe", ctypes.c_bool, wanted.kind == "kretprobe.multi"),
    )
    return link(
        lambda: library().bpf_program__attach_kprobe_multi_opts(
            program.handle, wanted.target.encode(), ctypes.byref(options)
        ),
        program,
        f"{wanted.kind} {wanted.target}",
        _FUNCTIONS,
    )


def _ksyscall(program: ProgramHandle, wanted: Attach) -> Links:
    _refuse_without_kprobes(program, f"{wanted.kind} {wanted.target}")
    options = _options(
        ("bpf_cookie", ctypes.c_uint64, 0), ("retprobe", ctypes.c_bool, wanted.kind == "kretsyscall")
    )
    return link(
        lambda: library().bpf_program__attach_ksyscall(
            program.handle, wanted.target.encode(), ctypes.byref(options)
        ),
        program,
        f"{wanted.kind} {wanted.target}",
        _SYSCALLS,
    )


def _usdt(program: ProgramHandle, wanted: Attach) -> Links:
    path = binary_of(wanted, program.name)
    provider, _, name = wanted.symbol.partition(":")
    return link(
        lambda: library().bpf_program__attach_usdt(
            program.handle, wanted.pid or -1, str(path).encode(), provider.encode(), name.encode(), None
        ),
        program,
        f"usdt {path}:{wanted.symbol}",
        _probes_of(path),
    )


_by_load: Callable[[ProgramHandle, Attach], Links] = lambda program, wanted: attach_by_section(program)  # noqa: E731

_KINDS: dict[str, Callable[[ProgramHandle, Attach], Links]] = {
    "tracepoint": _tracepoint,
    "raw_tp": _raw_tracepoint,
    # Their target was fixed when the program was loaded; attaching names it again.
    **dict.fromkeys(_FIXED_AT_LOAD, _by_load),
    "kprobe": _kprobe,
    "kretprobe": _kprobe,
    "kprobe.multi": _kprobe_multi,
    "kretprobe.multi": _kprobe_multi,
    "ksyscall": _ksyscall,
    "kretsyscall": _ksyscall,
    **dict.fromkeys(UPROBE_KINDS, attach_uprobe),
    "usdt": _usdt,
    "perf_event": attach_perf_event,
    "xdp": attach_xdp,
    "tcx/ingress": attach_tcx,
    "tcx/egress": attach_tcx,
    "cgroup": attach_cgroup,
    "socket": attach_socket,
}

_REMEDIES = {
    **dict.fromkeys(("tracepoint", "raw_tp", "tp_btf"), _TRACEPOINTS),
    **dict.fromkeys(("kprobe", "kretprobe", "kprobe.multi", "kretprobe.multi"), _FUNCTIONS),
    **dict.fromkeys(("ksyscall", "kretsyscall"), _SYSCALLS),
}
"""For a place that a section names."""
_ONLY_LOADED = (
    *("sk_lookup", "sk_reuseport", "sk_msg", "sk_skb", "netfilter", "lwt_", "flow_dissector", "lirc_mode2"),
    *("netkit", "xdp/", "xdp.frags/"),
)
"""How the kinds begin that no attach list can place: they belong to a socket, a route, a map or the like."""
_THROUGH_ONE_MAP = ("bpf_map_elem", "bpf_sk_storage_map", "sockmap")
"""Iterators that go through a map, which no section names."""
_NEED_NO_TARGET = ("custom", "syscall", "iter", "struct_ops")

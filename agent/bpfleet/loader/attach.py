"""The one place where programs of libbpf's dialect are attached: one function per kind.

A new attach kind is one function and one line in `_KINDS`.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable

from bpfleet.errors import AttachError
from bpfleet.loader.libbpf import Log, ProgramHandle, library
from bpfleet.loader.logs import telling_lines
from bpfleet.loader.symbols import library_path
from bpfleet.spec import Attach

__all__ = ["attach_by_section", "attach_program"]

Link = int


def attach_by_section(program: ProgramHandle) -> int:
    """Attach where the section's name says, as libbpf does; returns the link's fd."""
    return _link(lambda: library().bpf_program__attach(program.handle), program, program.section, "")


def attach_program(program: ProgramHandle, wanted: Attach) -> int:
    """Attach as `wanted` says; returns the link's fd. Raises AttachError naming program and place."""
    kind = _KINDS.get(wanted.kind)
    if kind is None:
        raise AttachError(
            f"program {program.name!r}: there is no attach kind {wanted.kind!r}",
            where=f"attach list, {wanted.target}",
            remedy=f"use one of {', '.join(_KINDS)}",
        )
    return kind(program, wanted)


def _tracepoint(program: ProgramHandle, wanted: Attach) -> int:
    group, _, name = wanted.target.replace("/", ":").partition(":")
    return _link(
        lambda: library().bpf_program__attach_tracepoint(program.handle, group.encode(), name.encode()),
        program,
        f"tracepoint {group}:{name}",
        "see /sys/kernel/tracing/events for this kernel's tracepoints",
    )


def _raw_tracepoint(program: ProgramHandle, wanted: Attach) -> int:
    return _link(
        lambda: library().bpf_program__attach_raw_tracepoint(program.handle, wanted.target.encode()),
        program,
        f"raw tracepoint {wanted.target}",
        "see /sys/kernel/tracing/events for this kernel's tracepoints",
    )


class _UprobeOptions(ctypes.Structure):
    """`struct bpf_uprobe_opts` of libbpf 1.1."""

    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("ref_ctr_offset", ctypes.c_size_t),
        ("bpf_cookie", ctypes.c_uint64),
        ("retprobe", ctypes.c_bool),
        ("func_name", ctypes.c_char_p),
    )


def _uprobe(program: ProgramHandle, wanted: Attach) -> int:
    path = library_path(wanted.target, program.name)
    options = _UprobeOptions(
        ctypes.sizeof(_UprobeOptions), 0, 0, wanted.kind == "uretprobe", wanted.symbol.encode()
    )
    return _link(
        lambda: library().bpf_program__attach_uprobe_opts(
            program.handle, -1, str(path).encode(), 0, ctypes.byref(options)
        ),
        program,
        f"{wanted.kind} {path}:{wanted.symbol}",
        f"nm -D {path} lists its symbols",
    )


_KINDS: dict[str, Callable[[ProgramHandle, Attach], Link]] = {
    "tracepoint": _tracepoint,
    "raw_tp": _raw_tracepoint,
    # The tracepoint of tp_btf was fixed when the program was loaded; attaching names it again.
    "tp_btf": lambda program, wanted: attach_by_section(program),
    "uprobe": _uprobe,
    "uretprobe": _uprobe,
}


def _link(attach: Callable[[], int | None], program: ProgramHandle, place: str, remedy: str) -> int:
    with Log() as log:
        link = attach()
    if not link:
        code = ctypes.get_errno()
        raise AttachError(
            f"program {program.name!r} can't be attached: {os.strerror(code)}",
            where=place,
            log=telling_lines(log.text, 4),
            remedy=remedy or "bpfleet doctor shows what this kernel can attach to",
        )
    fd: int = library().bpf_link__fd(link)
    return fd

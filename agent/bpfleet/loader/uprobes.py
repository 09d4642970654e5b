"""Probes on functions of binaries and libraries: by symbol, glob or offset, for every process or one.

Each is a perf event of its own, made by perf_event_open(2): its fd is all that keeps it there. What libbpf
would do by itself is done here, since it knows neither globs (before 1.3) nor that Go's functions bear no
return probes.
"""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path

from bpfleet.attach_points import attach_point
from bpfleet.errors import AttachError, UnsupportedError
from bpfleet.ipc import close_all
from bpfleet.loader.executables import Executable, Function
from bpfleet.loader.libbpf import ProgramHandle, library
from bpfleet.loader.linking import Links
from bpfleet.loader.perf_events import open_event, run_at
from bpfleet.loader.symbols import binary_of
from bpfleet.spec import Attach

__all__ = [
    "UPROBE_KINDS",
    "as_plain_uprobe",
    "attach_in",
    "attach_uprobe",
    "places_in",
    "refuse_returns_of_go",
]

UPROBE_KINDS = ("uprobe", "uretprobe", "uprobe.returns", "uprobe.body", "uprobe.multi", "uretprobe.multi")
_RETURNING = ("uretprobe", "uretprobe.multi")
_MOST_PLACES = 512
_PMU = Path("/sys/bus/event_source/devices/uprobe/type")
_BPF_PROG_TYPE_KPROBE = 2


def as_plain_uprobe(program: ProgramHandle) -> None:
    """Before load: a program for many places (`SEC("uprobe.multi/…")`) is loaded as one for a single place,
    since it gets a probe for each, on any kernel and with any libbpf."""
    if attach_point(program.section).kind in ("uprobe.multi", "uretprobe.multi"):
        library().bpf_program__set_type(program.handle, _BPF_PROG_TYPE_KPROBE)
        library().bpf_program__set_expected_attach_type(program.handle, 0)


def attach_uprobe(program: ProgramHandle, wanted: Attach) -> Links:
    """Attach as `wanted` says; raises AttachError naming program and place."""
    try:
        path = binary_of(wanted, program.name)
    except AttachError:
        if wanted.everywhere:
            return ()  # only containers have it
        raise
    return attach_in(program.fd, path, wanted)


def attach_in(program: int, path: Path, wanted: Attach) -> Links:
    """Attach the program of that fd in one file; raises AttachError naming program and place."""
    fds: list[int] = []
    for offset in places_in(path, wanted):
        try:
            fds.append(attach_at(program, path, offset, wanted.kind, wanted.pid))
        except OSError as error:
            close_all(fds)
            raise AttachError(
                f"program {wanted.program!r} can't be attached: {error.strerror}",
                where=f"{wanted.kind} {path}:{wanted.symbol} (file offset {offset:#x})",
                remedy="is it an instruction's first byte, in a file that can be mapped for execution?",
            ) from None
    return tuple(fds)


def places_in(path: Path, wanted: Attach) -> list[int]:
    """The offsets in the file that `wanted` means; raises AttachError where there is no such function."""
    binary = Executable(path)
    refuse_returns_of_go(binary, wanted)
    if wanted.symbol.startswith("0x"):
        return [_whole(binary, wanted, int(wanted.symbol, 16))]
    symbol, _, offset = wanted.symbol.partition("+")
    found = binary.functions(symbol)
    if not found:
        raise _no_function(binary, wanted, symbol)
    if wanted.kind == "uprobe.returns":
        places = [at for one in found for at in _returns_of(binary, wanted, one)]
    elif wanted.kind == "uprobe.body":
        places = [binary.body_offset(one) for one in found]
    else:
        places = [one.offset for one in found]
        if offset:
            places = [_whole(binary, wanted, at + int(offset, 0)) for at in places]
    if len(places) > _MOST_PLACES:
        raise AttachError(
            f"program {wanted.program!r}: {wanted.symbol!r} means {len(places)} places, "
            f"more than {_MOST_PLACES}",
            where=f"{wanted.kind} {path}:{wanted.symbol}",
            remedy="a narrower glob",
        )
    return places


def refuse_returns_of_go(binary: Executable, wanted: Attach) -> None:
    """Raises AttachError for a return probe in a Go program: it would crash that."""
    if wanted.kind in _RETURNING and binary.made_by_go:
        raise AttachError(
            f"program {wanted.program!r} can't be attached: a {wanted.kind} crashes a Go program, whose "
            "runtime moves stacks, and with them the return address that the probe has replaced",
            where=f"{wanted.kind} {binary.path}:{wanted.symbol}",
            remedy="list it in `attach` with the kind uprobe.returns: a probe on each return instruction",
        )


def attach_at(program: int, path: Path, offset: int, kind: str, pid: int) -> int:
    """Probe one place of a file; the fd that keeps the program there. OSError where the kernel refuses."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    event = open_event(
        _pmu(),
        int(kind in _RETURNING),
        pid=pid or -1,
        # Of a probe for every process any CPU will do; one for a process takes none.
        cpu=-1 if pid else 0,
        more=struct.pack("<QQ", ctypes.addressof(name), offset),
    )
    try:
        run_at(event, program)
    except OSError:
        os.close(event)
        raise
    return event


def _whole(binary: Executable, wanted: Attach, offset: int) -> int:
    """The offset; raises AttachError where a probe there would cut an instruction in two, and so break the
    program, which the kernel does not always refuse."""
    if binary.splits_an_instruction(offset):
        raise AttachError(
            f"program {wanted.program!r} can't be attached: no instruction begins at file offset {offset:#x}",
            where=f"{wanted.kind} {binary.path}:{wanted.symbol}",
            remedy=f"objdump -d {binary.path} shows where instructions begin",
        )
    return offset


def _returns_of(binary: Executable, wanted: Attach, one: Function) -> list[int]:
    places = binary.return_offsets(one) if one.size else []
    if not places:
        raise AttachError(
            f"program {wanted.program!r}: function {one.name!r} has no return instruction",
            where=f"{wanted.kind} {binary.path}:{one.name}",
            remedy="it ends in a jump, never returns, or its size is not told: attach to its start",
        )
    return places


def _no_function(binary: Executable, wanted: Attach, symbol: str) -> AttachError:
    like = binary.names_like(symbol)
    return AttachError(
        f"program {wanted.program!r} can't be attached: {binary.path} has no function {symbol!r}",
        where=f"{wanted.kind} {binary.path}:{wanted.symbol}",
        remedy=f"some of its functions are {', '.join(like)}; nm -D {binary.path} lists them"
        if like
        else "it has no symbols (it is stripped): name an offset in the file, 0x…",
    )


def _pmu() -> int:
    try:
        return int(_PMU.read_text())
    except (OSError, ValueError):
        raise UnsupportedError(
            "this kernel has no uprobes", where=str(_PMU), remedy="run a kernel with CONFIG_UPROBE_EVENTS"
        ) from None

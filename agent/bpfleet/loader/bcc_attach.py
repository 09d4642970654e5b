"""Where the programs of a bcc source go, and attaching them there: one function per kind.

bcc's own attach methods are not used: they keep the fds to disable them at exit, tell no errno, and
0.26 leaves out the last argument of `bpf_attach_uprobe`, so the kernel may take whatever is on the stack
for the offset of a semaphore.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from bpfleet.errors import AttachError, UnsupportedError
from bpfleet.loader.executables import Executable
from bpfleet.loader.symbols import library_path
from bpfleet.loader.uprobes import refuse_returns_of_go
from bpfleet.spec import Attach

__all__ = ["PROGRAM_TYPES", "attach_place", "close_names", "places"]

PROGRAM_TYPES = {
    # kind: the kernel's enum bpf_prog_type
    "kprobe": 2,
    "kretprobe": 2,
    "uprobe": 2,
    "uretprobe": 2,
    "tracepoint": 5,
    "raw_tp": 17,
    "fentry": 26,
    "fexit": 26,
    "lsm": 29,
}

_PREFIXES = {
    # bcc's macros make functions of these names and attach them by it
    "kprobe__": "kprobe",
    "kretprobe__": "kretprobe",
    "tracepoint__": "tracepoint",
    "raw_tracepoint__": "raw_tp",
    "kfunc__": "fentry",
    "kretfunc__": "fexit",
    "lsm__": "lsm",
}
_WANTED_KINDS = ("tracepoint", "raw_tp", "uprobe", "uretprobe")
_TRACEFS = ("/sys/kernel/tracing", "/sys/kernel/debug/tracing")
_EVENT_SOURCES = Path("/sys/bus/event_source/devices")


def places(names: Sequence[str], wanted: Sequence[Attach], source: str) -> list[Attach]:
    """Where each of a source's programs goes: as `wanted` says, else as its name says.

    A program may go to several places. One that is neither wanted nor named for a place goes nowhere.
    Raises AttachError for a program that is not there and a kind that bcc has not.
    """
    for one in wanted:
        if one.program not in names:
            raise AttachError(
                f"the source has no program {one.program!r}",
                where=f"attach list for {source}",
                remedy=close_names(one.program, names, "its programs are"),
            )
        if one.kind not in _WANTED_KINDS:
            raise AttachError(
                f"program {one.program!r}: a bcc program can't be attached as {one.kind!r}",
                where=f"attach list for {source}",
                remedy=f"use one of {', '.join(_WANTED_KINDS)}, or a source of kind core",
            )
    named = {one.program for one in wanted}
    return [*wanted, *(place for name in names if name not in named if (place := _by_name(name)))]


def _by_name(name: str) -> Attach | None:
    for prefix, kind in _PREFIXES.items():
        if name.startswith(prefix):
            target = name.removeprefix(prefix)
            return Attach(name, kind, target.replace("__", ":", 1) if kind == "tracepoint" else target)
    return None


def close_names(wrong: str, known: Sequence[str], otherwise: str) -> str:
    """`did you mean …?` where some known name is like `wrong`, else `otherwise` and at most ten of them."""
    close = get_close_matches(wrong, known, 3)
    if close:
        return f"did you mean {' or '.join(repr(name) for name in close)}?"
    return f"{otherwise} {', '.join(sorted(known)[:10]) or 'none'}"


@dataclass(frozen=True, slots=True)
class _Target:
    """What an attach function is given: bcc's BPF object, a loaded program's fd, and the place."""

    bpf: Any
    fd: int
    place: Attach

    @property
    def text(self) -> str:
        place = self.place
        return f"{place.kind}/{place.target}" + (f":{place.symbol}" if place.symbol else "")

    def refused(self, remedy: str, *, reason: str = "") -> AttachError:
        reason = reason or os.strerror(ctypes.get_errno())
        return AttachError(
            f"program {self.place.program!r} can't be attached: {reason}", where=self.text, remedy=remedy
        )


def attach_place(bpf: Any, fd: int, place: Attach) -> tuple[str, int]:
    """Attach program `fd` at `place`; returns where (`uprobe/c:getaddrinfo`) and the fd that keeps it there.

    Raises AttachError naming program, target, symbol and names like a misspelt one; UnsupportedError where
    the kernel has no such kind.
    """
    target = _Target(bpf, fd, place)
    ctypes.set_errno(0)
    return target.text, _KINDS[place.kind](target)


def _library() -> Any:
    from bcc import lib

    return lib


def _tracepoint(target: _Target) -> int:
    group, _, name = target.place.target.replace("/", ":").partition(":")
    events = next((path for root in _TRACEFS if (path := Path(root, "events")).is_dir()), None)
    if events is None:
        raise target.refused(
            "mount it: mount -t tracefs tracefs /sys/kernel/tracing", reason="tracefs is not mounted"
        )
    if not (events / group).is_dir():
        groups = [path.name for path in events.iterdir() if path.is_dir()]
        remedy = close_names(group, groups, "groups are, among others,")
        raise target.refused(remedy, reason=f"this kernel has no tracepoint group {group!r}")
    if not (events / group / name / "id").exists():
        names = [path.name for path in (events / group).iterdir() if path.is_dir()]
        remedy = close_names(name, names, f"group {group} has, among others,")
        raise target.refused(remedy, reason=f"this kernel has no tracepoint {group}:{name}")
    link: int = _library().bpf_attach_tracepoint(target.fd, group.encode(), name.encode())
    if link < 0:
        raise target.refused("run as root; see dmesg")
    return link


def _raw_tracepoint(target: _Target) -> int:
    name = target.place.target
    link: int = _library().bpf_attach_raw_tracepoint(target.fd, name.encode())
    if link < 0:
        known = {path.name for root in _TRACEFS for path in Path(root, "events").glob("*/*") if path.is_dir()}
        raise target.refused(
            close_names(name, sorted(known), "raw tracepoints have the names of tracepoints, such as")
        )
    return link


def _uprobe(target: _Target) -> int:
    place = target.place
    _require("uprobe", target)
    path = library_path(place.target, place.program)
    refuse_returns_of_go(Executable(path), place)
    try:
        found, offset = target.bpf._check_path_symbol(bytes(path), place.symbol.encode(), None, -1)
    except Exception as error:
        if type(error) is not Exception:  # bcc's own are bare
            raise
        names = _functions(target.bpf, path)
        raise target.refused(
            close_names(place.symbol, names, "its functions are, among others,"),
            reason=f"{path} has no function {place.symbol!r}",
        ) from None
    event = re.sub(rb"[^A-Za-z0-9_]", b"_", b"%s_%s_0x%x" % (place.kind.encode(), found, offset))
    returns = int(place.kind == "uretprobe")
    # The last two: every process (-1), and no semaphore to raise (0), which bcc's own caller leaves out.
    link: int = _library().bpf_attach_uprobe(target.fd, returns, event, found, offset, -1, ctypes.c_uint32(0))
    if link < 0:
        raise target.refused(_why_no_uprobe(ctypes.get_errno(), place.symbol))
    return link


def _why_no_uprobe(code: int, symbol: str) -> str:
    if code == errno.EINVAL:
        # All probes of one place must name the same semaphore ("ref_ctr_offset mismatch" in dmesg), and bcc
        # 0.26 gives whatever is on its stack.
        return f"does another bcc tool probe {symbol!r} now? end it, then reload; see dmesg"
    return "the file must be on a file system that can be mapped for execution"


def _functions(bpf: Any, path: Path) -> list[str]:
    try:
        return sorted({name.decode() for name in bpf.get_user_functions(bytes(path), b".*")})
    except Exception as error:
        if type(error) is not Exception:
            raise
        return []


def _kprobe(target: _Target) -> int:
    _require("kprobe", target)
    place = target.place
    function = target.bpf.fix_syscall_fnname(place.target.encode())
    event = b"%s_%s" % (b"r" if place.kind == "kretprobe" else b"p", function.replace(b".", b"_"))
    link: int = _library().bpf_attach_kprobe(target.fd, int(place.kind == "kretprobe"), event, function, 0, 0)
    if link < 0:
        raise target.refused(
            "the function may be inlined, renamed or not traceable on this kernel; a tracepoint is steadier"
        )
    return link


def _trampoline(target: _Target) -> int:
    lib = _library()
    link: int = (lib.bpf_attach_lsm if target.place.kind == "lsm" else lib.bpf_attach_kfunc)(target.fd)
    if link < 0:
        raise target.refused("use a tracepoint, or a kprobe where the kernel has them")
    return link


def _require(device: str, target: _Target) -> None:
    if not (_EVENT_SOURCES / device).exists():
        raise UnsupportedError(
            f"program {target.place.program!r}: this kernel has no {device}s",
            where=target.text,
            remedy="attach to a tracepoint instead, or run a kernel with "
            + ("CONFIG_KPROBE_EVENTS" if device == "kprobe" else "CONFIG_UPROBE_EVENTS"),
        )


_KINDS: dict[str, Callable[[_Target], int]] = {
    "tracepoint": _tracepoint,
    "raw_tp": _raw_tracepoint,
    "uprobe": _uprobe,
    "uretprobe": _uprobe,
    "kprobe": _kprobe,
    "kretprobe": _kprobe,
    "fentry": _trampoline,
    "fexit": _trampoline,
    "lsm": _trampoline,
}

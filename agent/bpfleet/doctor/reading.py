"""Maps: which kinds can be made, and by which methods the worker's user can read one.

Nothing is taken on trust: maps are made, rows put in, the snapshot program loaded, and a process that has
become the worker's user, without capabilities, reads the rows with the agent's own readers.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from bpfleet import kernel
from bpfleet.doctor.child import ChildFailed, in_child
from bpfleet.doctor.finding import Finding, Subject, missing, ok, unseen, warn
from bpfleet.doctor.kernel import release_numbers
from bpfleet.errors import BpfleetError, CompileError
from bpfleet.layout import declared
from bpfleet.loader.snapshot_program import Walker, load_walker
from bpfleet.reading.ladder import MapReader, WalkFds
from bpfleet.schema import counter, label
from bpfleet.supervisor.privileges import drop_to
from bpfleet.users import User

__all__ = ["NO_CAPABILITY_SINCE", "map_kinds", "reading"]

NO_CAPABILITY_SINCE = (6, 0)
"""Kernels from here on let a process without CAP_BPF read maps by fd (`bpfleet.supervisor.launch`)."""

_PAGE = os.sysconf("SC_PAGESIZE")
_NO_PREALLOC, _MMAPABLE = 1, 1 << 10
_KINDS: dict[str, tuple[int, int, int, int]] = {
    # name: key size, value size, entries, flags
    "hash": (4, 8, 4, 0),
    "array": (4, 8, 4, 0),
    "percpu_hash": (4, 8, 4, 0),
    "percpu_array": (4, 8, 4, 0),
    "lru_hash": (4, 8, 64, 0),
    "lru_percpu_hash": (4, 8, 64, 0),
    "prog_array": (4, 4, 4, 0),
    "perf_event_array": (4, 4, 4, 0),
    "stack_trace": (4, 8 * 8, 4, 0),
    "cgroup_array": (4, 4, 4, 0),
    "lpm_trie": (8, 8, 4, _NO_PREALLOC),
    "queue": (0, 8, 4, 0),
    "stack": (0, 8, 4, 0),
    "ringbuf": (0, 0, _PAGE, 0),
    "bloom_filter": (0, 8, 4, 0),
    "user_ringbuf": (0, 0, _PAGE, 0),
}
_SINCE = {"ringbuf": "5.8", "bloom_filter": "5.16", "user_ringbuf": "6.1"}

_KEY = (label("key", "u32"),)
_VALUE = (counter("value", "u64"),)
_ROW = (7, 42)


def map_kinds(subject: Subject) -> Iterator[Finding]:
    """One finding for the kinds that can be made, one for those that can't."""
    if not subject.root:
        yield unseen("map kinds", "needs root")
        return
    refused: dict[str, OSError] = {}
    for name, sizes in _KINDS.items():
        try:
            os.close(kernel.create_map(kernel.MAP_TYPES.index(name), *sizes))
        except OSError as error:
            refused[name] = error
    made = [name for name in _KINDS if name not in refused]
    if made:
        yield ok("map kinds", ", ".join(made))
    needed = [name for name in ("hash", "array") if name in refused]
    if needed:
        yield missing(
            "map kinds",
            f"{' and '.join(needed)} can't be made: {refused[needed[0]].strerror}",
            "run as root on the host; in a container: privileged, with a seccomp profile that allows bpf(2)",
        )
    elif refused:
        told = [f"{name} (since {_SINCE[name]})" if name in _SINCE else name for name in refused]
        yield warn("map kinds", f"not here: {', '.join(told)}", "collectors that use them are left out")


@dataclass(frozen=True)
class _Sample:
    """Maps with one row in each, and the snapshot programs that could be loaded for them."""

    hash: int
    per_cpu: int
    mmapable: int
    walker: Walker | None
    walker_of_per_cpu: Walker | None


@dataclass(frozen=True)
class _Attempt:
    """What became of reading as another user: for each method "" or what went wrong."""

    keep_bpf: bool
    methods: dict[str, str]
    failure: str = ""

    @property
    def works(self) -> bool:
        return not self.failure and not any(self.methods.values())


def reading(subject: Subject) -> Iterator[Finding]:
    """The snapshot program, then the reading methods in the worker's hands."""
    if not subject.root:
        yield unseen("snapshot program", "needs root")
        yield unseen("reading", "needs root")
        return
    try:
        fds = [
            _new_map(name, flags) for name, flags in (("hash", 0), ("percpu_hash", 0), ("array", _MMAPABLE))
        ]
    except OSError as error:
        yield missing("reading", f"no map to try with: {error.strerror}", "see map kinds")
        return
    walkers: list[Walker | None] = []
    for fd, what in ((fds[0], "snapshot program"), (fds[1], "snapshot, per CPU")):
        walker, finding = _walker(fd, what)
        walkers.append(walker)
        yield finding
    try:
        yield from _as_worker(subject.user, _Sample(fds[0], fds[1], fds[2], walkers[0], walkers[1]))
    except ChildFailed as error:
        yield unseen("reading as worker", str(error), "run it again; if it stays so, please report this line")


def _new_map(kind: str, flags: int) -> int:
    entries = 1 if kind == "array" else 16
    fd = kernel.create_map(kernel.MAP_TYPES.index(kind), 4, 8, entries, flags)
    per_cpu = kernel.map_info(fd).per_cpu
    key = ctypes.create_string_buffer(struct.pack("=I", 0 if kind == "array" else _ROW[0]), 4)
    numbers = [_ROW[1]] + [0] * (kernel.possible_cpus() - 1) if per_cpu else [_ROW[1]]
    value = ctypes.create_string_buffer(struct.pack(f"={len(numbers)}Q", *numbers), 8 * len(numbers))
    kernel.update(fd, ctypes.addressof(key), ctypes.addressof(value))
    return fd


def _walker(fd: int, what: str) -> tuple[Walker | None, Finding]:
    remedy = "maps are read by batch instead, which is slower"
    try:
        walker = load_walker(fd, kernel.map_info(fd), declared(_VALUE), 16)
        problem = _read("walk", fd, walker)
    except CompileError as error:
        return None, warn(what, _one_line(error), f"{error.remedy}; until then {remedy}")
    except BpfleetError as error:
        since = "5.19" if "CPU" in what else "5.14"
        return None, warn(what, _one_line(error), f"needs Linux {since} and libbpf; {remedy}")
    if problem:
        return None, warn(what, f"it loads, and {problem}", remedy)
    return walker, ok(what, "loads, and gives the row that was put in")


def _read(method: str, fd: int, walker: Walker | None) -> str:
    """Read the sample's row; "" or what went wrong."""
    walk = None
    if walker is not None:
        walk = WalkFds(walker.program, walker.rows, walker.counters, walker.capacity)
    try:
        reader = MapReader(fd, declared(_KEY), declared(_VALUE), walk=walk, allowed=[method])
        read = reader.read()
    except BpfleetError as error:
        return str(error.what).rpartition(f"{method}: ")[2].partition(";")[0]
    except OSError as error:
        return f"the kernel refuses: {error.strerror}"
    rows = list(zip(*(column.tolist() for column in read.columns), strict=True))
    expected = [(0, _ROW[1])] if method == "mmap" else [_ROW]
    return "" if rows == expected else f"it gives {rows} where {expected} was put in"


def _as_worker(user: User, sample: _Sample) -> Iterator[Finding]:
    keep_bpf = release_numbers() < NO_CAPABILITY_SINCE
    tried = _attempt(user, sample, keep_bpf=keep_bpf)
    what, who = (
        "reading as worker",
        f"user {user.name} with {'CAP_BPF alone' if keep_bpf else 'no capability'}",
    )
    if tried.failure:
        yield missing(
            what, f"{who}: {tried.failure}", "give the agent CAP_SETUID, CAP_SETGID and CAP_SETPCAP"
        )
        return
    readable = [method for method, problem in tried.methods.items() if not problem]
    refused = {method: problem for method, problem in tried.methods.items() if problem}
    if not {"batch", "key"} & set(readable):
        remedy = "it needs Linux 5.8; a seccomp filter must allow bpf(2)"
        if not keep_bpf and _attempt(user, sample, keep_bpf=True).works:
            remedy = "it works with CAP_BPF, which the agent keeps before Linux 6.0 only; please report this"
        told = "; ".join(f"{method}: {problem}" for method, problem in refused.items())
        yield missing(what, f"{who} can't read maps by fd: {told}", remedy)
        return
    yield ok(what, f"{who} reads maps by fd: {', '.join(readable)}")
    for method, problem in refused.items():
        yield warn(f"{what}: {method}", f"{who}: {problem}", "maps are read by the next method that works")
    if keep_bpf:
        yield warn(
            "CAP_BPF",
            "this kernel lets no process without it read maps, so the worker keeps this one capability",
            "from Linux 6.0 on it needs none",
        )


def _attempt(user: User, sample: _Sample, *, keep_bpf: bool) -> _Attempt:
    def as_worker() -> dict[str, object]:
        try:
            drop_to(user, keep_bpf=keep_bpf)
        except OSError as error:
            return asdict(_Attempt(keep_bpf, {}, f"can't give up root: {error.strerror}"))
        methods = {"mmap": _read("mmap", sample.mmapable, None)}
        if sample.walker:
            methods["walk"] = _read("walk", sample.hash, sample.walker)
        if sample.walker_of_per_cpu:
            methods["walk per CPU"] = _read("walk", sample.per_cpu, sample.walker_of_per_cpu)
        methods["batch"] = _read("batch", sample.hash, None)
        methods["key"] = _read("key", sample.hash, None)
        return asdict(_Attempt(keep_bpf, methods))

    # The worker's modules were imported as root: whether its user can reach the code is another check's.
    return _Attempt(**in_child(as_worker))


def _one_line(error: BpfleetError) -> str:
    return " ".join([error.what, *error.log.split()])

"""The loader process: take one request from the supervisor, do it as root, answer with fds, exit.

The order is the same for both program kinds: compile → compare with the schema → load → snapshot
programs → attach."""

from __future__ import annotations

import os
import socket
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from bpfleet import kernel
from bpfleet.errors import BpfleetError, LoadError, UnsupportedError
from bpfleet.events import DRAINED
from bpfleet.ipc import Channel, ChannelClosed
from bpfleet.layout import Layout
from bpfleet.loader.backend import Backend, CompiledMap
from bpfleet.loader.controls import tell
from bpfleet.loader.counters import failed_inserts, new_keys
from bpfleet.loader.drained_maps import event_type, prepare_drained
from bpfleet.loader.local_storage import load_storage_iterator
from bpfleet.loader.rescan import known_at_load, rescan
from bpfleet.loader.schema_check import check_schema, derived_maps
from bpfleet.loader.seen_layouts import HEADS
from bpfleet.loader.snapshot_program import Walker, first_rows, load_walker
from bpfleet.loader.stacks import named_stack_maps, open_symbols, raw_layouts
from bpfleet.loader.sys_files import open_files
from bpfleet.loader.tracing_mounts import mount_privately
from bpfleet.protocol import (
    Failed,
    Grow,
    Load,
    Loaded,
    LoadedMap,
    LoadedProgram,
    LoadedStacks,
    Rescanned,
    plain,
    typed,
)
from bpfleet.spec import Attach

_MMAPABLE = 1 << 10  # BPF_F_MMAPABLE


@dataclass
class _Fds:
    """The fds to be sent; messages name them by index."""

    all: list[int] = field(default_factory=list)

    def add(self, fd: int) -> int:
        self.all.append(fd)
        return len(self.all) - 1


def main() -> int:
    channel = Channel(socket.socket(fileno=int(sys.argv[1])), timeout=None)
    message, received = channel.receive()
    fds = _Fds()
    reply: Loaded | LoadedMap | Rescanned | Failed
    try:
        if message["op"] == "rescan":
            reply = rescan(message, received, fds.add)
        elif message["op"] == "grow":
            reply = grow(typed(message["request"], Grow), message["map"], received[0], fds)
        else:
            reply = load(typed(message, Load), fds)
    except BpfleetError as error:
        reply, fds = Failed(collector=str(message.get("collector")), error=error.to_plain()), _Fds()
    except Exception:
        # A defect of ours; it still costs its own collector only.
        defect = LoadError("the loader failed", where="loader", log=traceback.format_exc(limit=-4))
        reply, fds = Failed(collector=str(message.get("collector")), error=defect.to_plain()), _Fds()
    channel.send(plain(reply), fds.all)
    if isinstance(reply, Loaded) and any(one.perf_fds for one in reply.maps):
        # Perf rings are there only while somebody has them mapped: the supervisor says when it has.
        with suppress(ChannelClosed):
            channel.receive()
    return 0


def load(request: Load, fds: _Fds) -> Loaded:
    """Bring one collector into the kernel."""
    mount_privately()
    backend, compiled, layouts = _BACKENDS[request.kind](request)
    stacks = named_stack_maps(request.collector, layouts, compiled)
    read = {name: layout for name, layout in layouts.items() if name not in stacks}
    maps = tuple(_maps(request, read, compiled, fds))
    files = tuple(open_files(request, compiled, fds.add))
    controls = tell(request, compiled, layouts, backend.knobs, fds.add)
    attached = backend.attach(_attach_list(request)) if request.attach_programs else ()
    programs = tuple(
        LoadedProgram(name=one.name, fd=fds.add(one.fd), attached=one.attached, error=one.error)
        for one in attached
    )
    links = {one.name: tuple(fds.add(link) for link in one.links) for one in attached}
    ladders = tuple(backend.ladders())
    rungs = [request.ladders[one.name][one.rung - 1] for one in ladders if one.rung]
    places = (*request.attach, *(place for rung in rungs for place in rung if Attach(*place).kind))
    return Loaded(
        collector=request.collector,
        maps=maps,
        programs=programs,
        links=tuple(index for there in links.values() for index in there),
        ladders=ladders,
        iterators=tuple(index for one in attached if one.iterates for index in links[one.name]),
        controls=controls,
        files=files,
        places=places,
        known=tuple(known_at_load([Attach(*place) for place in places])),
        before_snapshot_fd=_before_snapshot(request, programs) if request.attach_programs else None,
        stacks=tuple(_stacks(name, one, compiled, fds) for name, one in stacks.items()),
        symbols=open_symbols(fds.add) if stacks else None,
    )


def _maps(
    request: Load,
    layouts: Mapping[str, tuple[Layout, Layout]],
    compiled: Mapping[str, CompiledMap],
    fds: _Fds,
) -> Iterator[LoadedMap]:
    """The maps that are read: all that are declared; where none is, those that can be."""
    for name, (key, value) in layouts.items():
        kind = kernel.map_info(compiled[name].fd).type_name
        # bcc tells nothing of local storage but a key that it does not have.
        if not request.maps and (kind not in _READABLE or key.size != HEADS.get(kind, key).size):
            continue
        try:
            yield _describe(compiled[name], request, key, value, compiled, fds)
        except UnsupportedError as error:
            if request.maps:
                raise
            print(
                f"bpfleet: collector {request.collector!r}: map {name!r} is not read: {error}",
                file=sys.stderr,
            )


def _stacks(name: str, one: CompiledMap, compiled: Mapping[str, CompiledMap], fds: _Fds) -> LoadedStacks:
    counted = failed_inserts(name, compiled, fds.add)
    return LoadedStacks(name=name, fd=fds.add(one.fd), failed_inserts=counted)


def grow(request: Grow, loaded: dict[str, object], map_fd: int, fds: _Fds) -> LoadedMap:
    """Make a larger row buffer for a map that is in the kernel."""
    one = typed(loaded, LoadedMap)
    info = kernel.map_info(map_fd)
    walker = load_walker(map_fd, info, one.value, min(request.rows, info.max_entries))
    _take_walker(one, walker, fds)
    return one


_Opened = tuple[Backend, Mapping[str, CompiledMap], dict[str, tuple[Layout, Layout]]]
_READABLE = {
    *("hash", "lru_hash", "percpu_hash", "lru_percpu_hash", "array", "percpu_array", "lpm_trie"),
    *("stack_trace", "cgroup_storage", "percpu_cgroup_storage"),
    *kernel.NESTING_TYPES,
    *HEADS,
    *DRAINED,
}


def _open_core(request: Load) -> _Opened:
    from bpfleet.loader.core import open_core

    opened = open_core(request)
    layouts = _layouts(request, {one.name: one for one in opened.types()})
    opened.load()
    return opened, {one.name: one for one in opened.maps()}, layouts


def _open_bcc(request: Load) -> _Opened:
    from bpfleet.loader.bcc import open_bcc

    try:
        text = Path(request.source).read_text()
    except OSError as error:
        raise LoadError(
            f"the source can't be read: {error.strerror}",
            where=request.source,
            remedy="install the plugin anew, or name a file that is there",
        ) from None
    opened = open_bcc(request, text)
    compiled = {one.name: one for one in opened.maps()}
    layouts = _layouts(request, compiled)
    opened.load()
    return opened, compiled, layouts


_BACKENDS: dict[str, Callable[[Load], _Opened]] = {"core": _open_core, "bcc": _open_bcc}


def _layouts(request: Load, compiled: Mapping[str, CompiledMap]) -> dict[str, tuple[Layout, Layout]]:
    if request.maps:
        return check_schema(request.collector, request.maps, compiled)
    return derived_maps(request.collector, compiled, request.words)


def _attach_list(request: Load) -> list[Attach]:
    return [Attach(*place) for place in request.attach]


def _describe(
    one: CompiledMap,
    request: Load,
    key: Layout,
    value: Layout,
    compiled: Mapping[str, CompiledMap],
    fds: _Fds,
) -> LoadedMap:
    info = kernel.map_info(one.fd)
    if info.type_name == "stack_trace" and not request.maps:
        key, value = raw_layouts(info, key, value)
    described = LoadedMap(
        name=one.name,
        help=_help(request, one.name),
        type=info.type,
        key_size=info.key_size,
        value_size=info.value_size,
        max_entries=info.max_entries,
        flags=info.flags,
        key=key,
        value=value,
        fd=fds.add(one.fd),
        inner=one.inner,
        failed_inserts=failed_inserts(one.name, compiled, fds.add),
        new_keys=new_keys(one.name, compiled, fds.add),
    )
    if info.type_name in HEADS:
        described.iterator_fd = fds.add(load_storage_iterator(one.fd, info))
        return described
    if info.type_name in DRAINED:
        prepare_drained(described, one.fd, info, request.perf_buffer, fds.add)
        described.event_type = event_type(one, request)
        return described
    if info.flags & _MMAPABLE and "mmap" in request.methods:
        return described
    if "walk" in request.methods:
        try:
            rows = first_rows(info, request.row_buffer)
            _take_walker(described, load_walker(one.fd, info, value, rows), fds)
        except UnsupportedError as error:
            described.walk_refused = str(error)
    return described


def _help(request: Load, name: str) -> str:
    if name in request.words:
        return request.words[name].help
    return next((spec.help for spec in request.maps if spec.name == name), "")


def _take_walker(described: LoadedMap, walker: Walker, fds: _Fds) -> None:
    described.walk_fd = fds.add(walker.program)
    described.rows_fd = fds.add(walker.rows)
    described.state_fd = fds.add(walker.counters)
    described.rows_capacity = walker.capacity


def _before_snapshot(request: Load, programs: tuple[LoadedProgram, ...]) -> int | None:
    if request.before_snapshot is None:
        return None
    for program in programs:
        if program.name == request.before_snapshot:
            return program.fd
    raise LoadError(
        f"there is no program {request.before_snapshot!r} to run before a snapshot",
        where=f"collector {request.collector!r}, before_snapshot",
        remedy='declare it with SEC("syscall")',
    )


if __name__ == "__main__":
    # os._exit: LLVM's and libbpf's destructors have nothing to add, and take 50 ms.
    status = main()
    sys.stderr.flush()
    os._exit(status)

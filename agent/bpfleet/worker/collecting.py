"""A collector in the worker: from its spec to a load request, from the answer's fds to readers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from bpfleet.draining.drainer import Drainer
from bpfleet.draining.opening import open_drainer
from bpfleet.errors import BpfleetError, ConfigError, LoadError
from bpfleet.ipc import close_all
from bpfleet.layout import unnested
from bpfleet.plugins import State
from bpfleet.protocol import Change, Load, Loaded, LoadedLadder, LoadedMap, LoadedProgram, Place
from bpfleet.reading.columns import Read
from bpfleet.reading.inner_maps import InnerMaps
from bpfleet.reading.iterated import IteratedMap
from bpfleet.reading.ladder import METHODS, MapReader, WalkFds
from bpfleet.settings import CollectorSettings
from bpfleet.spec import Attach, Collector, Decoder, Rung
from bpfleet.symbols.naming import Naming
from bpfleet.wire import Frame, Schema, columns_of, encode_schema
from bpfleet.worker.asked import asked, asked_places
from bpfleet.worker.controls import Controls
from bpfleet.worker.counters import Counter
from bpfleet.worker.decoding import DecodedColumn, decoded_columns
from bpfleet.worker.file_numbers import FileNumber, numbers_of
from bpfleet.worker.stack_records import RunningStacks, Table, open_naming, running_stacks
from bpfleet.worker.stacks import STACK

__all__ = ["Cost", "RunningCollector", "RunningMap", "load_request"]


Reader = MapReader | InnerMaps | IteratedMap | Drainer


@dataclass
class Cost:
    """What reading a map has cost, cumulative."""

    reads: int = 0
    read_ns: int = 0
    rows: int = 0
    entries: int = 0
    bytes: int = 0

    def took(self, read: Read, nanoseconds: int) -> None:
        """Count one read."""
        self.reads += 1
        self.read_ns += nanoseconds
        self.rows, self.entries = read.rows, read.entries


@dataclass
class RunningMap:
    """One map of a running collector."""

    name: str
    reader: Reader
    schema: Schema
    schema_frame: Frame
    failed_inserts: Counter | None
    decoded: list[DecodedColumn] = field(default_factory=list)
    stacks: RunningStacks | None = None
    cost: Cost = field(default_factory=Cost)
    growing: bool = False
    event_type: str = ""
    """Of a drained map: how the layout of its events was found."""

    def tables(self, read: Read) -> Iterator[Table]:
        """What is to be told of a read: first the stacks that its rows name, then the rows."""
        losses = self.losses(read)
        columns = list(read.columns)
        for one in self.decoded:
            made, failed = one.make(read.columns)
            columns.append(made)
            if failed:
                losses["not_decoded"] = losses.get("not_decoded", 0) + failed
        if self.stacks is not None:
            stacks, named = self.stacks.table(read)
            yield stacks
            columns.append(named)
        read = replace(read, columns=columns)
        yield Table(self.schema, self.schema_frame, read, self.reader.max_entries, losses)

    def losses(self, read: Read) -> dict[str, int]:
        """Losses by reason: inserts that the kernel refused (cumulative), rows this read had no room for."""
        found = self.losses_so_far()
        if read.entries > read.rows:
            found["truncated"] = read.entries - read.rows
        return found

    def losses_so_far(self) -> dict[str, int]:
        """Those that are counted since the program was loaded."""
        found = {} if self.failed_inserts is None else {"failed_insert": self.failed_inserts.value()}
        if isinstance(self.reader, Drainer):
            found |= self.reader.losses()
        return found

    def told(self) -> None:
        """What was read last is in records."""
        if isinstance(self.reader, Drainer):
            self.reader.told()


@dataclass
class RunningCollector:
    """A collector that is in the kernel."""

    name: str
    version: str
    interval: float
    maps: list[RunningMap]
    programs: list[dict[str, str]]
    ladders: list[LoadedLadder]
    generation: int
    before_snapshot: int | None
    files: list[FileNumber]
    iterators: list[int]
    fds: list[int]
    controls: Controls
    state: State = State.RUNNING
    error: BpfleetError | None = None
    retry_at: float = 0.0
    failures: int = 0

    @staticmethod
    def of(
        spec: Collector,
        settings: CollectorSettings,
        interval: float,
        loaded: Loaded,
        fds: list[int],
        decoders: Mapping[str, Decoder],
        keep_changes: Callable[[tuple[Change, ...]], None] = lambda changes: None,
    ) -> RunningCollector:
        """Open readers over the fds that came with `loaded`; raises ReadError where a map can't be read."""
        try:
            naming = open_naming(spec.name, loaded, fds)
            maps = [_running_map(spec, settings, one, loaded, naming, fds, decoders) for one in loaded.maps]
            controls = Controls(spec.name, loaded.controls, fds, loaded.changes, keep_changes)
        except OSError as error:
            raise LoadError(
                f"a map that was just made can't be read: {error.strerror}",
                where=f"collector {spec.name!r}",
                remedy="bpfleet doctor shows whether this kernel lets an unprivileged process read by fd",
            ) from None
        before = loaded.before_snapshot_fd
        return RunningCollector(
            name=spec.name,
            version=spec.version,
            interval=interval,
            maps=maps,
            programs=[_program(one) for one in loaded.programs],
            ladders=list(loaded.ladders),
            generation=loaded.generation,
            before_snapshot=None if before is None else fds[before],
            files=numbers_of(loaded.files, {one.name: fds[one.fd] for one in loaded.maps}, fds),
            iterators=[fds[index] for index in loaded.iterators],
            fds=fds,
            controls=controls,
        )

    def use_larger_buffer(self, name: str, walk: WalkFds) -> None:
        """Put a grown row buffer to use."""
        for one in self.maps:
            if one.name == name and isinstance(one.reader, MapReader):
                one.reader.use_walker(walk)
                one.growing = False

    def now_attached(self, programs: Mapping[str, str]) -> None:
        """Some of its programs are in more places than before, or in fewer."""
        for one in self.programs:
            one["attached"] = programs.get(one["name"], one["attached"])

    def close(self) -> None:
        """Let go of our copies of the fds; the supervisor's keep the programs attached."""
        close_all(self.fds)


def _program(one: LoadedProgram) -> dict[str, str]:
    said = {"name": one.name, "attached": one.attached}
    return said | {"error": one.error} if one.error else said


def _running_map(
    spec: Collector,
    settings: CollectorSettings,
    one: LoadedMap,
    loaded: Loaded,
    naming: Naming,
    fds: list[int],
    decoders: Mapping[str, Decoder],
) -> RunningMap:
    reader = _reader(settings, one, fds)
    columns = columns_of(one.key.columns(), one.value.columns())
    decoded = decoded_columns([*one.key.columns(), *one.value.columns()], columns, decoders)
    columns = (*columns, *(made.column for made in decoded))
    stacks = running_stacks(spec, one, loaded, naming, fds)
    if stacks is not None:
        columns = (*columns, STACK)
    schema = Schema(spec.name, spec.version, one.name, one.help, columns)
    counter = None
    if one.failed_inserts_fd is not None:
        counter = Counter(fds[one.failed_inserts_fd], one.failed_inserts_offset)
    return RunningMap(
        one.name, reader, schema, encode_schema(schema), counter, decoded, stacks, event_type=one.event_type
    )


def _reader(settings: CollectorSettings, one: LoadedMap, fds: list[int]) -> Reader:
    if one.book_fd is not None:
        counted = one.failed_inserts_fd is not None
        return open_drainer(one, fds, most_bytes=settings.row_buffer, counted=counted)
    if one.iterator_fd is not None:
        link = fds[one.iterator_fd]
        return IteratedMap(fds[one.fd], link, one.key, one.value, most_bytes=settings.row_buffer)
    if one.inner is not None:
        outer, key = unnested(one.key, one.inner[0], one.key_size, one.inner[1])
        return InnerMaps(fds[one.fd], outer, key, one.value, most_bytes=settings.row_buffer)
    walk = None
    if one.walk_fd is not None and one.rows_fd is not None and one.state_fd is not None:
        walk = WalkFds(fds[one.walk_fd], fds[one.rows_fd], fds[one.state_fd], one.rows_capacity)
    reader = MapReader(
        fds[one.fd],
        one.key,
        one.value,
        walk=walk,
        allowed=settings.read,
        walk_limit=settings.walk_limit,
        most_bytes=settings.row_buffer,
    )
    if one.walk_refused and "walk" in reader.why_not:
        reader.why_not["walk"] = one.walk_refused
    return reader


def load_request(
    spec: Collector,
    settings: CollectorSettings,
    timeout: float,
    *,
    rescan: float = 60.0,
    attach: bool = True,
) -> Load:
    """What the supervisor is asked to bring into the kernel; raises ConfigError where the settings
    make no sense."""
    unknown = [method for method in settings.read if method not in METHODS]
    if unknown:
        raise ConfigError(
            f"there is no reading method {unknown[0]!r}",
            where=f"[collectors.{spec.name}] read",
            remedy=f"use some of {', '.join(METHODS)}",
        )
    return Load(
        collector=spec.name,
        kind=spec.program.kind,
        source=os.fspath(spec.program.source),
        maps=spec.maps,
        words=dict(spec.words),
        attach=tuple(map(_place, asked_places(spec, settings))),
        ladders=_ladders(spec),
        attach_all=spec.attach_all,
        knobs=asked(spec, "knobs", settings),
        data=asked(spec, "data", settings),
        entries=asked(spec, "entries", settings),
        cflags=spec.program.cflags,
        before_snapshot=spec.before_snapshot,
        files=spec.files,
        row_buffer=int(settings.row_buffer),
        methods=settings.read,
        perf_buffer=int(settings.perf_buffer),
        timeout=float(timeout),
        rescan=float(rescan),
        attach_programs=attach,
    )


def _place(one: Attach) -> Place:
    where = one.program, one.kind, one.target, one.symbol
    return *where, one.frequency, one.pid, one.everywhere, one.period


def _ladders(spec: Collector) -> dict[str, tuple[tuple[Place, ...], ...]]:
    for name, rungs in spec.ladders.items():
        if isinstance(rungs, str) or not rungs or not all(rungs):
            raise ConfigError(
                f"ladder {name!r} has {'a rung' if rungs else 'no rungs, or one'} without a program",
                where=f"collector {spec.name!r}, ladders",
                remedy="list the alternatives, best first: each a program's name, or several in a list",
            )
    return {name: tuple(map(_rung, rungs)) for name, rungs in spec.ladders.items()}


def _rung(rung: Rung) -> tuple[Place, ...]:
    programs = [rung] if isinstance(rung, str | Attach) else rung
    return tuple(_place(Attach(one, "", "") if isinstance(one, str) else one) for one in programs)

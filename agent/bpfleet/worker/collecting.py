"""A collector in the worker: from its spec to a load request, from the answer's fds to readers."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bpfleet.errors import BpfleetError, ConfigError, LoadError
from bpfleet.ipc import close_all
from bpfleet.plugins import State
from bpfleet.protocol import Change, Load, Loaded, LoadedLadder, LoadedProgram, Place
from bpfleet.reading.ladder import METHODS, MapReader, WalkFds
from bpfleet.settings import CollectorSettings
from bpfleet.spec import Attach, Collector, Decoder, Ladders, Rung
from bpfleet.worker.asked import asked, asked_ladders, asked_places
from bpfleet.worker.controls import Controls
from bpfleet.worker.file_numbers import FileNumber, numbers_of
from bpfleet.worker.running_map import RunningMap, running_map
from bpfleet.worker.stack_records import open_naming

__all__ = ["RunningCollector", "load_request"]


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
            made = (running_map(spec, settings, one, loaded, naming, fds, decoders) for one in loaded.maps)
            maps = [one for one in made if one is not None]
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
        ladders=_ladders(spec.name, asked_ladders(spec, settings)),
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


def _ladders(collector: str, ladders: Ladders) -> dict[str, tuple[tuple[Place, ...], ...]]:
    for name, rungs in ladders.items():
        if isinstance(rungs, str) or not rungs or not all(rungs):
            raise ConfigError(
                f"ladder {name!r} has {'a rung' if rungs else 'no rungs, or one'} without a program",
                where=f"collector {collector!r}, ladders",
                remedy="list the alternatives, best first: each a program's name, or several in a list",
            )
    return {name: tuple(map(_rung, rungs)) for name, rungs in ladders.items()}


def _rung(rung: Rung) -> tuple[Place, ...]:
    programs = [rung] if isinstance(rung, str | Attach) else rung
    return tuple(_place(Attach(one, "", "") if isinstance(one, str) else one) for one in programs)

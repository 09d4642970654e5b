"""Alternatives of a program, best first: which of them this kernel takes.

One program that the kernel refuses makes libbpf give up the whole object. So each rung is tried in an object
of its own, with every other program left out: it has to load, and its programs have to attach. The trial is
then let go of, with its maps; the object that counts is loaded with the programs of the rungs taken.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from bpfleet.errors import AttachError, BpfleetError, VerifierError
from bpfleet.loader.backend import AttachedProgram
from bpfleet.loader.libbpf import Object, ProgramHandle
from bpfleet.loader.linking import Links
from bpfleet.protocol import LoadedLadder, Place
from bpfleet.spec import Attach

__all__ = ["Rung", "TakenRung", "Trial", "loaded_ladder", "none_of", "rungs_of", "take"]

Rung = Sequence[Attach]
"""Programs that are wanted together; one without a kind goes where the attach list or its section says."""


@dataclass(frozen=True, slots=True)
class Trial:
    """How a rung is tried: an object not loaded yet, and how its programs are loaded and attached."""

    open: Callable[[], Object]
    load: Callable[[Object, Rung], None]
    """Raises LoadError or VerifierError."""
    attach: Callable[[ProgramHandle, Sequence[Attach]], Links] | None
    """Raises AttachError; None where nothing is to be attached."""


@dataclass(frozen=True, slots=True)
class TakenRung:
    """What became of one ladder. `number` counts from 1 and is 0 where every rung was refused."""

    ladder: str
    number: int
    rungs: int
    programs: Rung
    refused: tuple[str, ...]


def rungs_of(ladders: Mapping[str, Sequence[Sequence[Place]]]) -> dict[str, list[Rung]]:
    """Every ladder's rungs, as places to attach to."""
    return {name: [[Attach(*place) for place in rung] for rung in rungs] for name, rungs in ladders.items()}


def take(ladder: str, rungs: Sequence[Rung], trial: Trial) -> TakenRung:
    """The first rung that the kernel takes, tried from the best on."""
    refused: list[str] = []
    for number, rung in enumerate(rungs, 1):
        try:
            _try(rung, trial)
        except BpfleetError as error:
            refused.append(f"{_words(rung)}: {_reason(error)}")
            continue
        return TakenRung(ladder, number, len(rungs), rung, tuple(refused))
    return TakenRung(ladder, 0, len(rungs), (), tuple(refused))


def none_of(taken: TakenRung, where: str) -> AttachError:
    """The error for a ladder of which every rung was refused; its log has each one's reason."""
    return AttachError(
        f"none of the {taken.rungs} alternatives of {taken.ladder!r} can be had",
        where=where,
        log="\n".join(taken.refused),
        remedy="bpfleet doctor shows what this kernel can attach to",
    )


def loaded_ladder(taken: TakenRung, attached: Sequence[AttachedProgram]) -> LoadedLadder:
    """What is told of a ladder, once its programs are attached (or loaded, where nothing is attached)."""
    places = {one.name: one.attached for one in attached}
    names = [one.program for one in taken.programs]
    return LoadedLadder(
        name=taken.ladder,
        taken=", ".join(places.get(name) or name for name in names),
        rung=taken.number,
        rungs=taken.rungs,
        refused=taken.refused,
    )


def _try(rung: Rung, trial: Trial) -> None:
    opened = trial.open()
    try:
        trial.load(opened, rung)
        if trial.attach is None:
            return
        for program, places in _programs(opened, rung):
            for link in trial.attach(program, places):
                os.close(link)
    finally:
        opened.close()


def _programs(opened: Object, rung: Rung) -> Iterator[tuple[ProgramHandle, Sequence[Attach]]]:
    places: dict[str, list[Attach]] = {}
    for place in rung:
        there = places.setdefault(place.program, [])
        if place.kind:
            there.append(place)
    for program in opened.programs():
        if program.name in places:
            yield program, places[program.name]


def _words(rung: Rung) -> str:
    return " + ".join(f"{one.program} ({one})" if one.kind else one.program for one in rung)


def _reason(error: BpfleetError) -> str:
    """One line: what was refused and the line of a log that tells most.

    That is the verifier's last; libbpf says first what is wrong, and then what it therefore gives up.
    """
    lines = error.log.splitlines()
    if not lines:
        return error.what
    line = lines[-1] if isinstance(error, VerifierError) else lines[0]
    return f"{error.what} ({line.strip().removeprefix('libbpf: ')})"

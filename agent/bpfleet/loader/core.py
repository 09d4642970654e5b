"""The `core` program kind: an object compiled ahead of time, loaded and attached by libbpf."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bpfleet import bpf_object
from bpfleet.errors import AttachError, LoadError, ObjectError, VerifierError
from bpfleet.loader.attach import attach_by_section, attach_program
from bpfleet.loader.backend import AttachedProgram, CompiledMap
from bpfleet.loader.compile import object_for
from bpfleet.loader.knobs import write_knobs
from bpfleet.loader.libbpf import Log, Object
from bpfleet.loader.logs import telling_lines
from bpfleet.protocol import Load
from bpfleet.spec import Attach

__all__ = ["CoreObject", "open_core"]


def open_core(request: Load) -> CoreObject:
    """Compile where needed and open; nothing is in the kernel yet."""
    return CoreObject(object_for(Path(request.source)), request)


class CoreObject:
    """A `.bpf.o`. Its types are known before the kernel sees it: `maps` works before `load`."""

    def __init__(self, path: Path, request: Load) -> None:
        self._path = path
        self._types = bpf_object.read(path)
        with Log() as log:
            try:
                self._object = Object(str(path))
            except OSError as error:
                raise ObjectError(
                    f"libbpf can't open it: {error.strerror}",
                    where=str(path),
                    log=telling_lines(log.text),
                    remedy="bpfleet inspect shows what the file holds",
                ) from None
        write_knobs(self._object, path, request.knobs)

    def types(self) -> Sequence[CompiledMap]:
        """The maps' types as the compiler left them, without fds (-1)."""
        return [CompiledMap(m.name, -1, *self._types.layouts_of(m.name)) for m in self._object.maps()]

    def load(self) -> None:
        """Bring maps and programs into the kernel; raises VerifierError with the log's telling lines."""
        with Log() as log:
            try:
                self._object.load()
            except OSError as error:
                refused = "BEGIN PROG LOAD LOG" in log.text
                raise (VerifierError if refused else LoadError)(
                    "the kernel's verifier refuses the program"
                    if refused
                    else f"the kernel refuses the object: {error.strerror}",
                    where=str(self._path),
                    log=telling_lines(log.text),
                    remedy="mend the program at the line named"
                    if refused
                    else "bpfleet doctor shows what this kernel lacks",
                ) from None

    def maps(self) -> Sequence[CompiledMap]:
        """Every map that the kernel now has."""
        return [
            CompiledMap(m.name, m.fd, *self._types.layouts_of(m.name))
            for m in self._object.maps()
            if m.fd >= 0
        ]

    def attach(self, wanted: Sequence[Attach]) -> Sequence[AttachedProgram]:
        """Programs named in `wanted` go where it says, all others where their section's name says."""
        named: dict[str, list[Attach]] = {}
        for place in wanted:
            named.setdefault(place.program, []).append(place)
        there = [program.name for program in self._object.programs()]
        for name in named.keys() - set(there):
            raise AttachError(
                f"the object has no program {name!r}",
                where=f"attach list for {self._path}",
                remedy=f"its programs are {', '.join(there)}",
            )
        attached = []
        for program in self._object.programs():
            if program.fd < 0:
                continue
            section = program.section.lstrip("?")
            if program.name in named:
                places = named[program.name]
                links = tuple(attach_program(program, place) for place in places)
                where = ", ".join(map(str, places))
                attached.append(AttachedProgram(program.name, program.fd, where, links))
            elif section == "syscall":
                attached.append(AttachedProgram(program.name, program.fd, "", ()))
            else:
                link = attach_by_section(program)
                attached.append(AttachedProgram(program.name, program.fd, section, (link,)))
        return attached

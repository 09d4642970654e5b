"""The `core` program kind: an object compiled ahead of time, loaded and attached by libbpf."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bpfleet import bpf_object
from bpfleet.errors import AttachError, LoadError, ObjectError, VerifierError
from bpfleet.loader.attach import attach_by_section, attach_program, goes_nowhere, set_target
from bpfleet.loader.backend import AttachedProgram, CompiledMap
from bpfleet.loader.compile import object_for
from bpfleet.loader.knobs import write_data, write_knobs
from bpfleet.loader.libbpf import Log, Object, ProgramHandle
from bpfleet.loader.linking import refused
from bpfleet.loader.logs import telling_lines
from bpfleet.loader.uprobes import as_plain_uprobe
from bpfleet.protocol import Load
from bpfleet.spec import Attach

__all__ = ["CoreObject", "open_core"]

_SAY_WHERE = 'name the place in the section (SEC("kprobe/do_exit")), or list it in `attach`'


def open_core(request: Load) -> CoreObject:
    """Compile where needed and open; nothing is in the kernel yet."""
    return CoreObject(object_for(Path(request.source)), request)


class CoreObject:
    """A `.bpf.o`. Its types are known before the kernel sees it: `maps` works before `load`."""

    def __init__(self, path: Path, request: Load) -> None:
        self._path = path
        self._request = request
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
        write_data(self._object, path, request.data)

    @property
    def knobs(self) -> frozenset[str]:
        """Names of its `const volatile` variables."""
        return self._types.knobs

    def types(self) -> Sequence[CompiledMap]:
        """The maps' types as the compiler left them, without fds (-1)."""
        return [
            CompiledMap(m.name, -1, *self._types.layouts_of(m.name), m.sizes) for m in self._object.maps()
        ]

    def load(self) -> None:
        """Bring maps and programs into the kernel; raises VerifierError with the log's telling lines."""
        wanted = {place[0]: Attach(*place) for place in self._request.attach}
        for program in self._object.programs():
            as_plain_uprobe(program)
            if program.name in wanted:
                set_target(program, wanted[program.name])
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
            CompiledMap(m.name, m.fd, *self._types.layouts_of(m.name), m.sizes)
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
        made = [
            self._attached(program, named.get(program.name, ()))
            for program in self._object.programs()
            if program.fd >= 0
        ]
        failed = [error for _, error in made if error is not None]
        if failed and (self._request.attach_all or not any(one.links for one, _ in made)):
            raise failed[0]
        return [one for one, _ in made]

    def _attached(
        self, program: ProgramHandle, places: Sequence[Attach]
    ) -> tuple[AttachedProgram, AttachError | None]:
        section = program.section.lstrip("?")
        nowhere = AttachedProgram(program.name, program.fd, "", ())
        if not places and section == "syscall":
            return nowhere, None
        if not places and goes_nowhere(program):
            if self._request.attach_all:
                return nowhere, refused(program, section, _SAY_WHERE, reason="nothing says where to")
            return replace(
                nowhere, error=f"program {program.name!r} ({section}): nothing says where to"
            ), None
        try:
            links = (
                tuple(fd for place in places for fd in attach_program(program, place))
                if places
                else attach_by_section(program)
            )
        except AttachError as error:
            return replace(nowhere, error=str(error)), error
        return replace(
            nowhere,
            attached=", ".join(map(str, places)) or section,
            links=links,
            iterates=section.startswith("iter"),
        ), None

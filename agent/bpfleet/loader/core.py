"""The `core` program kind: an object compiled ahead of time, loaded and attached by libbpf."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bpfleet import bpf_object
from bpfleet.attach_points import attach_point
from bpfleet.errors import AttachError, LoadError
from bpfleet.kernel import MAP_TYPES
from bpfleet.loader.attach import attach_by_section, attach_program, set_target, why_nowhere
from bpfleet.loader.attach_network import as_plain_classifier
from bpfleet.loader.backend import AttachedProgram, CompiledMap
from bpfleet.loader.compile import object_for
from bpfleet.loader.event_types import event_types
from bpfleet.loader.knobs import write_data, write_knobs
from bpfleet.loader.ladders import Rung, TakenRung, Trial, loaded_ladder, none_of, rungs_of, take
from bpfleet.loader.libbpf import Log, MapHandle, Object, ProgramHandle
from bpfleet.loader.linking import Links, refused
from bpfleet.loader.refusals import load_refused, open_refused
from bpfleet.loader.seen_layouts import seen_layouts
from bpfleet.loader.struct_ops import ask_for_links, attach_struct_ops
from bpfleet.loader.uprobes import as_plain_uprobe
from bpfleet.protocol import Load, LoadedLadder
from bpfleet.spec import Attach

__all__ = ["CoreObject", "open_core"]

# Numbers of the kernel's helpers.
_POP = 88  # bpf_map_pop_elem
_PERF_OUTPUTS = (25, 111, 121)  # bpf_perf_event_output, bpf_skb_output, bpf_xdp_output
_WRITE_ONLY = 1 << 4  # BPF_F_WRONLY: user space may not read the map
# Of a map of stacks whose size is filled in too: the kernel's usual depth (perf_event_max_stack).
_FRAMES, _ADDRESS = 127, 8
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
        self._object = self._open()
        self._rungs = rungs_of(request.ladders)
        self._taken: list[TakenRung] = []
        self._in_place = False
        self._attached: list[AttachedProgram] = []

    def _open(self) -> Object:
        with Log() as log:
            try:
                opened = Object(str(self._path))
            except OSError as error:
                raise open_refused(str(self._path), str(error.strerror), log.text) from None
        write_knobs(opened, self._path, self._request.knobs)
        write_data(opened, self._path, self._request.data)
        ask_for_links(opened)
        self._fill_in_sizes(opened)
        return opened

    def _fill_in_sizes(self, opened: Object) -> None:
        """Before load: what the object's own loader would say of its maps. A name that is not there is
        refused with the other words."""
        for one in opened.maps():
            said = self._request.words.get(one.name)
            if said is None or not said.max_entries:
                continue
            try:
                one.set(max_entries=said.max_entries)
                if MAP_TYPES[one.type] == "stack_trace" and not one.sizes[1]:
                    one.set(value_size=_FRAMES * _ADDRESS)
            except OSError as error:
                raise LoadError(
                    f"map {one.name!r} can't have {said.max_entries} entries: {error.strerror}",
                    where=f"words for {self._path}",
                    remedy="name a map with entries, and from 1 to 4294967295 of them",
                ) from None

    @property
    def knobs(self) -> frozenset[str]:
        """Names of its `const volatile` variables."""
        return self._types.knobs

    def types(self) -> Sequence[CompiledMap]:
        """The maps' types as the compiler left them, without fds (-1)."""
        return [self._described(one, -1) for one in self._object.maps()]

    def load(self) -> None:
        """Bring maps and programs into the kernel, of each ladder those of the best rung that it takes.

        Raises LoadError, or VerifierError with the log's telling lines."""
        self._refuse_unknown_programs()
        self._refuse_replacements()
        trial = Trial(self._open, self._load_rung, self._links if self._request.attach_programs else None)
        self._taken = [take(name, rungs, trial) for name, rungs in self._rungs.items()]
        for taken in self._taken:
            if not taken.number and self._request.attach_all:
                raise none_of(taken, str(self._path))
        chosen = [place for taken in self._taken for place in taken.programs]
        for program in self._object.programs():
            if self._is_on_a_ladder(program.name):
                program.set_autoload(any(place.program == program.name for place in chosen))
        self._load(self._object, [*self._listed(), *(place for place in chosen if place.kind)])

    def _load_rung(self, opened: Object, rung: Rung) -> None:
        """Bring in nothing but a rung's programs."""
        names = {place.program for place in rung}
        for program in opened.programs():
            program.set_autoload(program.name in names)
        self._load(opened, [*self._listed(), *(place for place in rung if place.kind)])

    def _load(self, opened: Object, places: Sequence[Attach]) -> None:
        wanted = {place.program: place for place in places}
        for program in opened.programs():
            as_plain_uprobe(program)
            as_plain_classifier(program)
            if program.name in wanted:
                set_target(program, wanted[program.name])
        with Log() as log:
            try:
                opened.load()
            except OSError as error:
                sections = {program.name: program.section for program in opened.programs()}
                raise load_refused(str(self._path), str(error.strerror), log.text, sections) from None

    def maps(self) -> Sequence[CompiledMap]:
        """Every map that the kernel now has."""
        return [self._described(one, one.fd) for one in self._object.maps() if one.fd >= 0]

    def _described(self, one: MapHandle, fd: int) -> CompiledMap:
        defined = self._types.maps.get(one.name)
        kind = defined.type_name if defined else ""
        key, value, inner = seen_layouts(self._types, one.name)
        return CompiledMap(
            one.name,
            fd,
            key,
            value,
            one.sizes,
            inner=inner,
            kind=kind,
            events=event_types(self._types, one.name),
            own=self._is_own(kind) or bool(one.flags & _WRITE_ONLY),
        )

    def _is_own(self, kind: str) -> bool:
        if kind == "perf_event_array":
            return not any(map(self._types.calls, _PERF_OUTPUTS))
        return kind in ("queue", "stack") and self._types.calls(_POP)

    def attach(self, wanted: Sequence[Attach]) -> Sequence[AttachedProgram]:
        """Programs named in `wanted` go where it says, all others where their section's name says."""
        chosen = [place for taken in self._taken for place in taken.programs if place.kind]
        made = [
            self._attach(program, self._places(program.name, chosen, wanted))
            for program in self._object.programs()
            if program.fd >= 0
        ]
        failed = [error for _, error in made if error is not None]
        failed += [none_of(taken, str(self._path)) for taken in self._taken if not taken.number]
        if failed and (self._request.attach_all or not any(one.links for one, _ in made)):
            raise failed[0]
        self._attached = [one for one, _ in made]
        return self._attached

    def ladders(self) -> Sequence[LoadedLadder]:
        """Which rung of each ladder was taken."""
        return [loaded_ladder(taken, self._attached) for taken in self._taken]

    def _listed(self) -> list[Attach]:
        return [Attach(*place) for place in self._request.attach]

    def _places(self, program: str, chosen: Sequence[Attach], wanted: Sequence[Attach]) -> list[Attach]:
        """Where a program goes: where its rung says, else where the attach list says."""
        by_rung = [place for place in chosen if place.program == program]
        return by_rung or [place for place in wanted if place.program == program]

    def _is_on_a_ladder(self, program: str) -> bool:
        return any(
            place.program == program for rungs in self._rungs.values() for rung in rungs for place in rung
        )

    def _refuse_unknown_programs(self) -> None:
        there = [program.name for program in self._object.programs()]
        lists = {"attach list": self._listed()} | {
            f"ladder {name!r}": [place for rung in rungs for place in rung]
            for name, rungs in self._rungs.items()
        }
        for what, places in lists.items():
            for place in places:
                if place.program not in there:
                    raise AttachError(
                        f"the object has no program {place.program!r}",
                        where=f"{what} for {self._path}",
                        remedy=f"its programs are {', '.join(there)}",
                    )

    def _refuse_replacements(self) -> None:
        for program in self._object.programs():
            if attach_point(program.section).kind == "freplace" and program.autoload:
                raise AttachError(
                    f"program {program.name!r} replaces a function of a program that is loaded, and nothing "
                    "says of which",
                    where=f"{program.section} of {self._path}",
                    remedy=f'write SEC("?{program.section}"), so that other loaders can use it and this one '
                    "leaves it out",
                )

    def _links(self, program: ProgramHandle, places: Sequence[Attach]) -> Links:
        """Attach in a trial."""
        if program.section.lstrip("?").startswith("struct_ops"):
            return ()  # to be loaded is what can be refused of it
        made, error = self._attach(program, places or self._places(program.name, (), self._listed()))
        if made.error and error is None:
            error = refused(program, program.section, _SAY_WHERE, reason=why_nowhere(program))
        if error is not None:
            raise error
        return made.links

    def _attach(
        self, program: ProgramHandle, places: Sequence[Attach]
    ) -> tuple[AttachedProgram, AttachError | None]:
        section = program.section.lstrip("?")
        nowhere = AttachedProgram(program.name, program.fd, "", ())
        if not places and section == "syscall":
            return nowhere, None
        reason = "" if places else why_nowhere(program)
        if reason:
            if self._request.attach_all:
                return nowhere, refused(program, section, _SAY_WHERE, reason=reason)
            return replace(nowhere, error=f"program {program.name!r} ({section}): {reason}"), None
        try:
            if section.startswith("struct_ops"):
                # The first function stands for all of the object.
                links = () if self._in_place else attach_struct_ops(self._object, program)
                self._in_place = True
            elif places:
                links = tuple(fd for place in places for fd in attach_program(program, place))
            else:
                links = attach_by_section(program)
        except AttachError as error:
            return replace(nowhere, error=str(error)), error
        return replace(
            nowhere,
            attached=", ".join(map(str, places)) or section,
            links=links,
            iterates=section.startswith("iter"),
        ), None

"""The `bcc` program kind: a source in BCC's dialect, compiled on the host by bcc.

bcc is used for what only it does: its dialect and compiler, its descriptions of tables, symbols. Reading
maps is not among them. What it does to its process is contained in `bcc_compile`.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bpfleet.errors import LoadError, UnsupportedError, VerifierError
from bpfleet.events import RINGS
from bpfleet.kernel import map_info
from bpfleet.layout import Layout
from bpfleet.loader.backend import AttachedProgram, CompiledMap
from bpfleet.loader.bcc_attach import PROGRAM_TYPES, attach_place, places
from bpfleet.loader.bcc_compile import compile_source, in_source, kept_apart
from bpfleet.loader.bcc_tables import event_layout, layout_of
from bpfleet.loader.event_types import EventTypes
from bpfleet.loader.logs import telling_lines
from bpfleet.protocol import Load, LoadedLadder
from bpfleet.spec import Attach

__all__ = ["BccObject", "open_bcc"]


def open_bcc(request: Load, source_text: str) -> BccObject:
    """Compile `source_text`, the content of `request.source`; maps are in the kernel, nothing is attached.

    Call `mount_privately` before: bcc reads tracepoints' formats from tracefs. Raises CompileError,
    LoadError, AttachError (a program of the attach list is not in the source) or UnsupportedError.
    """
    if request.before_snapshot is not None:
        raise UnsupportedError(
            f"a bcc program can't be run before a snapshot ({request.before_snapshot!r})",
            where=f"collector {request.collector!r}, before_snapshot",
            remedy="write the collector in the core dialect",
        )
    if request.data:
        raise UnsupportedError(
            f"a bcc program has no variables that could be set ({', '.join(request.data)})",
            where=f"collector {request.collector!r}, data",
            remedy="use knobs, which become macros, or entries of a map",
        )
    if request.ladders:
        raise UnsupportedError(
            "programs of a bcc source have no alternatives",
            where=f"collector {request.collector!r}, ladders",
            remedy="write the collector in the core dialect, or choose with #if in the source",
        )
    return BccObject(compile_source(request, source_text), request, source_text)


class BccObject:
    """A compiled bcc source; implements `bpfleet.loader.backend.Backend`."""

    def __init__(self, bpf: Any, request: Load, text: str) -> None:
        from bcc import lib

        # bcc's Python names these two only through `BPF[name]`, which refuses queues.
        lib.bpf_num_tables.restype, lib.bpf_num_tables.argtypes = ctypes.c_size_t, [ctypes.c_void_p]
        lib.bpf_table_name.restype = ctypes.c_char_p
        lib.bpf_table_name.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        self._lib = lib
        self._bpf = bpf
        self._text = text
        self._source = Path(request.source)
        module = bpf.module
        self._names = [
            lib.bpf_function_name(module, number).decode() for number in range(lib.bpf_num_functions(module))
        ]
        self._places = places(self._names, [Attach(*place) for place in request.attach], request.source)
        self._fds: dict[str, int] = {}

    @property
    def knobs(self) -> frozenset[str]:
        """None: they are macros."""
        return frozenset()

    def maps(self) -> Sequence[CompiledMap]:
        """Every table with its fd; layouts are None where bcc's description leaves the bytes in doubt."""
        module, lib = self._bpf.module, self._lib
        made = []
        for number in range(lib.bpf_num_tables(module)):
            name = lib.bpf_table_name(module, number)
            fd = lib.bpf_table_fd(module, name)
            info = map_info(fd)
            key = layout_of(lib.bpf_table_key_desc(module, name).decode(), info.key_size)
            value = layout_of(lib.bpf_table_leaf_desc(module, name).decode(), info.value_size)
            kind = info.type_name
            events = EventTypes(lambda name: None, known=self._submitted(name)) if kind in RINGS else None
            own = kind in ("queue", "stack") and f"{name.decode()}.pop(" in self._text
            own = own or (kind == "perf_event_array" and f"{name.decode()}.perf_submit" not in self._text)
            made.append(CompiledMap(name.decode(), fd, key, value, kind=kind, events=events, own=own))
        return made

    def _submitted(self, table: bytes) -> Layout | None:
        """The struct that the program gives to `perf_submit`, `ringbuf_output` or `ringbuf_reserve`."""
        module, lib = self._bpf.module, self._lib
        count = lib.bpf_perf_event_fields(module, table)
        return event_layout([lib.bpf_perf_event_field(module, table, i).decode() for i in range(count)])

    def load(self) -> None:
        """Bring every program that goes somewhere into the kernel; a second call does nothing.

        Raises VerifierError with the log's telling lines.
        """
        for place in self._places:
            self._load(place)

    def attach(self, wanted: Sequence[Attach]) -> Sequence[AttachedProgram]:
        """Attach programs as `wanted` says, those it does not name where their own name says.

        Loads first what is not yet loaded. Raises AttachError naming program and place; what was attached
        until then goes away with the process.
        """
        self._places = places(self._names, wanted, str(self._source))
        self.load()
        links: dict[str, list[tuple[str, int]]] = {}
        for place in self._places:
            with kept_apart():
                link = attach_place(self._bpf, self._fds[place.program], place)
            links.setdefault(place.program, []).append(link)
        return [
            AttachedProgram(
                name,
                self._fds[name],
                ", ".join(where for where, _ in there),
                tuple(fd for _, fd in there),
            )
            for name, there in links.items()
        ]

    def ladders(self) -> Sequence[LoadedLadder]:
        """None: see `open_bcc`."""
        return ()

    def _load(self, place: Attach) -> None:
        name = place.program
        if name in self._fds:
            return
        failed, code = False, 0
        with kept_apart() as log:
            try:
                self._fds[name] = self._bpf.load_func(name.encode(), PROGRAM_TYPES[place.kind]).fd
            except (Exception, SystemExit):
                failed, code = True, ctypes.get_errno()
        if not failed:
            return
        refused = "processed " in log.text
        said = in_source(log.text, self._text, self._source)
        raise (VerifierError if refused else LoadError)(
            f"the kernel's verifier refuses program {name!r}"
            if refused
            else f"the kernel refuses program {name!r} ({place.kind}): {os.strerror(code)}",
            where=str(self._source),
            log=telling_lines(said),
            remedy=_hint(said) or "mend the program at the line named"
            if refused
            else "run as root; bpfleet doctor shows which kinds of program this kernel takes",
        )


def _hint(log: str) -> str:
    """bcc's own advice on the verifier's complaint, where it has some."""
    _, found, advice = log.partition("\nHINT: ")
    return advice.partition("\n")[0].strip() if found else ""

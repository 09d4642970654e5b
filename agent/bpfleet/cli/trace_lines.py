"""Lines of `trace_pipe`: which are of our programs, which were lost."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from bpfleet import kernel

__all__ = ["Lines", "formats_of"]

_MOST_BYTES = 16 << 20
_MOST_WAITING = 100_000
_LINE = re.compile(r" bpf_trace_printk: (.*)")
_LOST = re.compile(r"CPU:\d+ \[LOST (\d+) EVENTS\]")
_CONVERSION = re.compile(r"%(%|p[A-Za-z0-9]*|[-+ #0]*\d*(?:\.\d+)?(?:hh|h|ll|l)?[A-Za-z])")


class Lines:
    """Sorts lines; the kernel does not say which program printed one, so they are told by their format."""

    def __init__(self, *, everything: bool) -> None:
        self.formats: list[re.Pattern[str]] | None = [] if everything else None
        """Of our programs; None: not known yet, lines wait. Empty: every line is shown."""
        self._everything = everything
        self._rest = b""
        self._waiting: list[bytes] = []
        self._showing = True
        self._hidden = self._lost = 0

    def take(self, data: bytes) -> Iterator[str]:
        """The lines to show, of what came and what was left of before."""
        *whole, self._rest = (self._rest + data).split(b"\n")
        self._waiting += whole
        if self.formats is None:
            self._lost += len(self._waiting[:-_MOST_WAITING])
            self._waiting = self._waiting[-_MOST_WAITING:]
            return
        whole, self._waiting = self._waiting, []
        for raw in whole:
            line = raw.decode("utf-8", "replace").rstrip()
            if lost := _LOST.search(line):
                self._lost += int(lost.group(1))
                continue
            found = _LINE.search(line)
            # One without a head goes on with the line before: a program printed a newline.
            if found:
                self._showing = self._is_ours(found.group(1))
                self._hidden += not self._showing
            if self._showing and line:
                yield line

    def _is_ours(self, text: str) -> bool:
        if self._everything or not self.formats:
            return True
        return any(one.match(text) for one in self.formats)

    def notes(self) -> Iterator[str]:
        """What is to be said at the end."""
        if self._lost:
            yield f"{self._lost} lines were lost: they came faster than they could be read"
        if self._hidden:
            yield f"{self._hidden} lines of other programs are not shown; --all shows them"
        if not self._everything and self.formats == []:
            yield "the program's formats can't be seen, so the lines of all programs are shown"


def formats_of(supervisor: int) -> list[re.Pattern[str]] | None:
    """The formats of the programs that this process holds: the texts in their `.rodata` maps.

    None where it holds no program (yet)."""
    programs = _programs(supervisor)
    if not programs:
        return None
    found = []
    for text in {text for data in _constants(programs) for text in data.split(b"\0")}:
        if text and (text.isascii() and text.decode().rstrip("\n").isprintable()):
            found.append(_pattern(text.decode()))
    return found


def _pattern(text: str) -> re.Pattern[str]:
    # Only the first line of what is printed has a head to look behind.
    first = text.partition("\n")[0]
    pieces = _CONVERSION.split(first)
    made = "".join(
        re.escape(piece) if at % 2 == 0 else ("%" if piece == "%" else ".*")
        for at, piece in enumerate(pieces)
    )
    return re.compile(made + r"\Z")


def _constants(programs: set[int]) -> Iterator[bytes]:
    """The content of each `.rodata` map of these programs."""
    for number in {number for program in programs for number in _maps_of(program)}:
        with suppress(OSError):
            fd = kernel.map_by_id(number)
            try:
                info = kernel.map_info(fd)
                if ".ro" in info.name and info.type_name == "array" and info.value_size <= _MOST_BYTES:
                    value = ctypes.create_string_buffer(info.value_size)
                    key = ctypes.create_string_buffer(4)
                    kernel.lookup(fd, ctypes.addressof(key), ctypes.addressof(value))
                    yield value.raw
            finally:
                os.close(fd)


def _programs(process: int) -> set[int]:
    """Ids of the programs that the process has open."""
    numbers = set()
    with suppress(OSError):
        for place in Path(f"/proc/{process}/fdinfo").iterdir():
            with suppress(OSError):
                found = re.search(r"^prog_id:\s*(\d+)", place.read_text(), re.MULTILINE)
                numbers |= {int(found.group(1))} if found else set()
    return numbers


def _maps_of(program: int) -> list[int]:
    """Ids of the maps of a program; none where it has gone."""
    try:
        fd = kernel.program_by_id(program)
    except OSError:
        return []
    try:
        return kernel.program_maps(fd)
    finally:
        os.close(fd)

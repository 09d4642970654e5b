"""Collectors that are files: `NAME.bpf.o` or `NAME.bpf.c`, with what `NAME.toml` beside it says of them.

The program is one for any libbpf loader, unchanged; the schema comes from its types.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from bpfleet.errors import ConfigError
from bpfleet.schema import FieldWords, Fold, MapWords, Meaning
from bpfleet.settings import Settings, convert
from bpfleet.spec import Attach, Collector, Rung, core

__all__ = ["file_collector", "files_in", "words_file"]

_ENDINGS = (".bpf.o", ".bpf.c", ".o")


class _Field(Settings, frozen=True, kw_only=True):
    meaning: Meaning | None = None
    unit: str = ""
    help: str = ""
    fold: Fold | None = None
    name: str = ""
    stack: str = ""
    process: str = ""
    decode: str = ""


class _Map(Settings, frozen=True, kw_only=True):
    help: str = ""
    read: bool = True
    event: str = ""
    size: int = 0
    control: bool = False
    max_entries: int = 0
    fields: dict[str, _Field] = msgspec.field(default_factory=dict)


class _Entry(Settings, frozen=True, kw_only=True):
    key: Any
    value: Any = None


class _Attach(Settings, frozen=True, kw_only=True):
    program: str
    kind: str
    target: str = ""
    symbol: str = ""
    frequency: int = 0
    pid: int = 0
    everywhere: bool = False
    period: int = 0


_Rung = str | _Attach | tuple[str | _Attach, ...]


class _File(Settings, frozen=True, kw_only=True):
    help: str = ""
    version: str = ""
    attach_all: bool = False
    before_snapshot: str | None = None
    knobs: dict[str, Any] = msgspec.field(default_factory=dict)
    data: dict[str, Any] = msgspec.field(default_factory=dict)
    entries: dict[str, tuple[_Entry, ...]] = msgspec.field(default_factory=dict)
    attach: tuple[_Attach, ...] = ()
    ladders: dict[str, tuple[_Rung, ...]] = msgspec.field(default_factory=dict)
    maps: dict[str, _Map] = msgspec.field(default_factory=dict)


def files_in(folder: Path) -> dict[str, Path]:
    """Collectors' names → files of a folder; an object goes before a `.bpf.c` of its name, unless the agent
    compiled it of that itself (then `.bpf.o.inputs` stands beside it): the collector stays the same one.

    Raises ConfigError where the folder can't be read.
    """
    try:
        files = sorted(folder.iterdir(), reverse=True)
    except OSError as error:
        raise ConfigError(
            f"the folder of programs can't be read: {error.strerror}",
            where=f"[agent] programs = {str(folder)!r}",
            remedy="name a folder that the agent's user can read",
        ) from None
    # Sorted backwards .o comes before .bpf.o, and that before .bpf.c: the first of a name stays.
    found: dict[str, Path] = {}
    for path in files:
        ours = path.with_name(f"{path.name}.inputs") in files and path.with_suffix(".c") in files
        if path.name.endswith(_ENDINGS) and not ours:
            found.setdefault(_name(path), path)
    return dict(sorted(found.items()))


def words_file(program: Path) -> Path:
    """Where words for `NAME.bpf.c`, `NAME.bpf.o` or `NAME.o` would stand."""
    name = program.name
    for ending in _ENDINGS:
        name = name.removesuffix(ending)
    return program.with_name(f"{name}.toml")


def file_collector(path: Path) -> Collector:
    """The spec of a file; raises ConfigError where what stands beside it is wrong."""
    said = _read(words_file(path))
    return Collector(
        name=_name(path),
        version=said.version,
        help=said.help or f"maps of {path}",
        program=core(path),
        attach=tuple(map(_place, said.attach)),
        ladders={name: tuple(map(_rung, rungs)) for name, rungs in said.ladders.items()},
        attach_all=said.attach_all,
        before_snapshot=said.before_snapshot,
        knobs=lambda settings: said.knobs,
        data=lambda settings: said.data,
        entries=lambda settings: {
            name: [(one.key, one.value) for one in there] for name, there in said.entries.items()
        },
        words=_words(said.maps),
    )


def _place(one: _Attach) -> Attach:
    return Attach(*msgspec.structs.astuple(one))


def _rung(one: _Rung) -> Rung:
    if isinstance(one, tuple):
        return tuple(part if isinstance(part, str) else _place(part) for part in one)
    return one if isinstance(one, str) else _place(one)


def _name(path: Path) -> str:
    stem = re.sub(r"[^a-z0-9_-]", "_", path.name.partition(".")[0].lower())
    return stem if stem[:1].isalpha() else f"file_{stem}"


def _read(path: Path) -> _File:
    try:
        text = path.read_text()
    except FileNotFoundError:
        return _File()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"it can't be read: {error}", where=str(path), remedy="make it readable for the agent's user"
        ) from None
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"not TOML: {error}", where=str(path), remedy="mend the line named") from None
    return convert(tables, _File, where=f"{path}: ")


def _words(maps: Mapping[str, _Map]) -> dict[str, MapWords]:
    return {
        name: MapWords(
            one.help,
            one.read,
            one.event,
            one.size,
            one.control,
            one.max_entries,
            {
                field: FieldWords(
                    said.name,
                    said.meaning,
                    said.unit,
                    said.help,
                    said.fold,
                    said.stack,
                    said.process,
                    said.decode,
                )
                for field, said in one.fields.items()
            },
        )
        for name, one in maps.items()
    }

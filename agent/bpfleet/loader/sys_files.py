"""Opens files of /sys that tell numbers which no program can: the worker reads them, and may open none."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from glob import iglob
from itertools import islice
from pathlib import Path

from bpfleet.errors import ConfigError
from bpfleet.loader.backend import CompiledMap
from bpfleet.protocol import Load
from bpfleet.sys_files import LoadedFile, SysFiles

__all__ = ["open_files"]

_MOST = 64


def open_files(
    request: Load, compiled: Mapping[str, CompiledMap], add: Callable[[int], int]
) -> Iterator[LoadedFile]:
    """The files that a collector asks for, each with the row that its number goes to."""
    for wanted in request.files:
        if wanted.map not in compiled:
            raise ConfigError(
                f"numbers of files are to go into the map {wanted.map!r}, which the object does not have",
                where=f"collector {request.collector!r}, files",
                remedy="declare it in the source",
            )
        for path in islice(sorted(iglob(wanted.files)), _MOST):
            opened = _open(wanted, Path(path))
            if opened is not None:
                fd, last, most = opened
                row, name = Path(path).parent.name, _text(Path(path).with_name(wanted.name))
                yield LoadedFile(map=wanted.map, row=row, name=name, fd=add(fd), start=last, most=most)


def _open(wanted: SysFiles, path: Path) -> tuple[int, int, int] | None:
    """(fd, the number now, the largest one) of a file; None for one that is not what it should be.

    Only of /sys: the worker, which asks for them, has no rights of its own.
    """
    try:
        if not os.path.realpath(path).startswith("/sys/"):
            return None
        number = int(path.read_text())
        most = int(_text(path.with_name(wanted.most)) or 0) if wanted.most else 0
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC), number, most
    except (OSError, ValueError):
        return None


def _text(path: Path) -> str:
    try:
        return path.read_text().strip() if path.is_file() else ""
    except (OSError, ValueError):
        return ""

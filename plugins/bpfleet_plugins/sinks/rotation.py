"""Names of rotated files, and which of them are kept: `PATH.YYYYmmddTHHMMSS[.n]`, UTC."""

from __future__ import annotations

import logging
import re
import time
from pathlib import Path

__all__ = ["prune", "rotated", "rotated_name"]

log = logging.getLogger("bpfleet.sink.file")

_ENDING = r"\.(\d{8}T\d{6})(?:\.(\d+))?"


def rotated_name(path: Path, now: float) -> Path:
    """A name that is not taken for the file at `path`, rotated at wall time `now`."""
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(now))
    numbers = [number for when, number, _ in _rotated(path) if when == stamp]
    ending = f".{max(numbers) + 1}" if numbers else ""
    return path.with_name(f"{path.name}.{stamp}{ending}")


def rotated(path: Path) -> list[Path]:
    """The rotated files of `path`, the oldest first."""
    return [name for _, _, name in _rotated(path)]


def prune(path: Path, keep: int) -> None:
    """Delete all rotated files but the newest `keep`; one that can't be deleted is told and left."""
    files = rotated(path)
    for name in files[: max(0, len(files) - keep)]:
        try:
            name.unlink(missing_ok=True)
        except OSError as error:
            log.warning("%s can't be deleted: %s", name, error.strerror)


def _rotated(path: Path) -> list[tuple[str, int, Path]]:
    pattern = re.compile(re.escape(path.name) + _ENDING)
    found = []
    for name in path.parent.iterdir():
        match = pattern.fullmatch(name.name)
        if match:
            found.append((match[1], int(match[2] or 0), name))
    return sorted(found)

"""The store's folder: its lock, the names and sizes of partition files."""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

from bpfleet.errors import StoreError

__all__ = [
    "Lock",
    "folder_size",
    "partition_files",
    "partition_name",
    "set_aside",
    "set_aside_files",
    "set_log_aside",
    "size_of",
    "unlink",
]

_NAME = re.compile(r"(\d{6,})-\d{8}T\d{6}Z\.duckdb\Z")


class Lock:
    """Held by the one process that writes to a folder, which it makes where it is missing."""

    def __init__(self, folder: Path) -> None:
        path = folder / "lock"
        try:
            folder.mkdir(mode=0o750, parents=True, exist_ok=True)
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except OSError as error:
            raise StoreError(
                f"the store's folder can't be used: {error.strerror}",
                where=str(error.filename or folder),
                remedy="give the aggregator's user the right to write there, or set another path",
            ) from None
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(self._fd, 20).decode("ascii", "replace").strip() or "unknown"
            os.close(self._fd)
            raise StoreError(
                f"another aggregator (process {holder}) writes to this store",
                where=str(folder),
                remedy="stop it, or give each aggregator a path of its own",
            ) from None
        # A disk that is full must not keep anyone from starting.
        try:
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)
        except OSError:
            pass

    def close(self) -> None:
        """Let others write."""
        os.close(self._fd)


def partition_name(number: int) -> str:
    """The name of a partition file that is begun now."""
    return f"{number:06d}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.duckdb"


def partition_files(folder: Path) -> Iterator[tuple[int, Path]]:
    """The numbers and paths of partition files, oldest first."""
    found = []
    for path in folder.iterdir():
        match = _NAME.match(path.name)
        if match:
            found.append((int(match.group(1)), path))
    yield from sorted(found)


def size_of(path: Path) -> int:
    """Bytes that a partition takes on the disk, its log included."""
    return _bytes(path) + _bytes(wal(path))


def folder_size(folder: Path) -> int:
    """Bytes that the whole folder takes on the disk, what was set aside included."""
    return sum(_bytes(path) for path in folder.rglob("*"))


def wal(path: Path) -> Path:
    """The log beside a partition file: what was committed, and is not in the file yet."""
    return path.with_name(path.name + ".wal")


def unlink(path: Path) -> None:
    """Remove a partition; the log first, which alone would say nothing."""
    for one in (wal(path), path):
        one.unlink(missing_ok=True)


def set_aside(path: Path) -> Path:
    """Rename a damaged partition, so that nobody opens it again; its new name."""
    aside = path.with_name(path.name + ".damaged")
    number = 1
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}.damaged{number}")
    for one in (wal(path), path):
        if one.exists():
            one.rename(one.with_name(one.name.replace(path.name, aside.name)))
    return aside


def set_log_aside(path: Path) -> Path | None:
    """Rename the log of a partition, which is then as it was before what the log has; its new name."""
    log, aside = wal(path), wal(path).with_name(f"{wal(path).name}.damaged")
    if not log.exists() or aside.exists():
        return None
    log.rename(aside)
    return aside


def set_aside_files(folder: Path) -> list[Path]:
    """What was set aside and is still there, oldest first; the logs of those left out."""
    return sorted(path for path in folder.glob("*.duckdb*.damaged*") if not path.name.endswith(".wal"))


def _bytes(path: Path) -> int:
    try:
        status = path.lstat()
    except OSError:
        return 0
    return status.st_blocks * 512

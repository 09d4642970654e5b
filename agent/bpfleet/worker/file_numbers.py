"""Numbers of files, put into a collector's map just before it is read (`SysFiles`)."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from bpfleet import kernel
from bpfleet.sys_files import LoadedFile

__all__ = ["FileNumber", "numbers_of"]

_NUMBER = 8


class FileNumber:
    """One file, whose row says what its number has grown by since the collector was loaded.

    That is kept in the map alone, so that a new worker goes on from there. A number that has wrapped once
    since the last look is told rightly; one that wraps more often between two looks is not.
    """

    def __init__(self, said: LoadedFile, file: int, fd: int) -> None:
        self._file, self._map = file, fd
        self._start, self._turn = said.start, said.most + 1 if said.most else 0
        info = kernel.map_info(fd)
        self._key = np.frombuffer(said.row.encode()[: info.key_size].ljust(info.key_size, b"\0"), np.uint8)
        room = info.value_size - _NUMBER
        self._value = np.zeros(info.value_size, np.uint8)
        self._value[_NUMBER:] = np.frombuffer(said.name.encode()[:room].ljust(room, b"\0"), np.uint8)
        self._total = self._value[:_NUMBER].view("<u8")
        kept = np.zeros(info.value_size, np.uint8)
        if kernel.lookup(fd, self._key.ctypes.data, kept.ctypes.data):
            self._total[0] = kept[:_NUMBER].view("<u8")[0]

    def look(self) -> None:
        """Bring the row up to date; a file that can't be read now leaves it as it is."""
        try:
            number = int(os.pread(self._file, 32, 0))
        except (OSError, ValueError):
            return
        before = self._start + int(self._total[0])
        grown = (number - before) % self._turn if self._turn else max(0, number - before)
        self._total[0] += np.uint64(grown)
        kernel.update(self._map, self._key.ctypes.data, self._value.ctypes.data)


def numbers_of(files: Sequence[LoadedFile], maps: dict[str, int], fds: Sequence[int]) -> list[FileNumber]:
    """What `Loaded.files` tells, with the fds that came with it; `maps` has those of maps by name."""
    return [FileNumber(one, fds[one.fd], maps[one.map]) for one in files if one.map in maps]

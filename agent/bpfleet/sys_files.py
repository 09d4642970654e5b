"""Files of /sys whose numbers are rows of a map: what a collector asks for, and what the loader opened."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

__all__ = ["LoadedFile", "SysFiles"]


@dataclass(frozen=True, slots=True)
class SysFiles:
    """Numbers that files of /sys tell and no program can, such as an energy counter's: rows of a map.

    Just before each snapshot every file's number is put into the hash map `map`, whose key is text (the name
    of the file's directory) and whose value is a u64 and text: what the number grew by since the collector
    was loaded, and what the file `name` beside it says. `files` is a glob; root opens them, at load."""

    map: str
    files: str
    name: str = "name"
    most: str = ""
    """A file beside each with the largest number, after which it begins at 0 again."""


class LoadedFile(msgspec.Struct, kw_only=True):
    """One of the files."""

    map: str
    row: str
    """The row's key."""
    name: str
    fd: int
    start: int
    """The number when it was opened."""
    most: int
    """The largest number; 0 where it never begins anew."""

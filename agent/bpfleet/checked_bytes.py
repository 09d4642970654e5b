"""Bytes of someone else's file: every read is bounds-checked, every failure an ObjectError."""

from __future__ import annotations

import struct
from typing import Any

from bpfleet.errors import ObjectError

__all__ = ["CheckedBytes", "printable"]

_REMEDY = "the file is cut off or damaged: compile or copy it again"


class CheckedBytes:
    """`data`, known in messages as `name`."""

    __slots__ = ("data", "name")

    def __init__(self, data: bytes, name: str) -> None:
        self.data = data
        self.name = name

    def error(self, what: str, place: str, remedy: str = _REMEDY) -> ObjectError:
        """An ObjectError about `place` in this file."""
        return ObjectError(what, where=f"{self.name}: {place}", remedy=remedy)

    def check(self, offset: int, size: int, place: str) -> None:
        """Raise ObjectError unless `size` bytes at `offset` are inside the data."""
        if offset < 0 or size < 0 or offset + size > len(self.data):
            raise self.error(
                f"{size} bytes at offset {offset} are beyond its end ({len(self.data)} bytes)", place
            )

    def unpack(self, form: struct.Struct, offset: int, place: str) -> tuple[Any, ...]:
        """What `form` reads at `offset`."""
        self.check(offset, form.size, place)
        return form.unpack_from(self.data, offset)

    def cut(self, offset: int, size: int, place: str) -> bytes:
        """`size` bytes at `offset`."""
        self.check(offset, size, place)
        return self.data[offset : offset + size]

    def text(self, offset: int, end: int, place: str) -> str:
        """The NUL-terminated text at `offset`, whose NUL comes before `end`."""
        self.check(offset, 1, place)
        stop = self.data.find(b"\0", offset, end)
        if stop < 0:
            raise self.error(f"the text at offset {offset} has no end", place)
        return printable(self.data[offset:stop])


def printable(raw: bytes) -> str:
    """`raw` as text; what can't be shown safely on a terminal becomes U+FFFD."""
    text = raw.decode("utf-8", "replace")
    return text if text.isprintable() else "".join(c if c.isprintable() else "\ufffd" for c in text)

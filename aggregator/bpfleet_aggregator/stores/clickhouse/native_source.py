"""The bytes of an answer, taken piece by piece, with a memory of how a block began."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Damaged", "EndOfAnswer", "Reader", "Source"]


class Source(Protocol):
    """Where an answer's bytes come from."""

    def read(self, size: int) -> bytes:
        """`size` bytes, fewer only at the end."""


class EndOfAnswer(Exception):
    """Raised where a block could begin and nothing follows."""


class Damaged(Exception):
    """Raised where bytes are no block: as a rule an error's text that the server put behind the blocks.

    `begin` is what was taken for a block's first bytes.
    """

    def __init__(self, begin: bytes) -> None:
        super().__init__()
        self.begin = begin


_KEPT = 4096
"""Bytes of a block's beginning that are remembered until it has been read."""


class Reader:
    def __init__(self, source: Source) -> None:
        self._source = source
        self.begin = b""

    def exactly(self, size: int) -> bytes:
        made = self._source.read(size)
        if len(self.begin) < _KEPT:
            self.begin += made[:_KEPT]
        if len(made) != size:
            raise self.damaged()
        return made

    def damaged(self) -> Damaged:
        return Damaged(self.begin)

    def varint(self) -> int:
        number = shift = 0
        while True:
            (byte,) = self.exactly(1)
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                return number
            shift += 7
            if shift > 63:
                raise self.damaged()

    def text(self) -> str:
        size = self.varint()
        if size > 1 << 16:
            raise self.damaged()
        return self.exactly(size).decode("utf-8", "replace")

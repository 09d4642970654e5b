"""Frames that are offered again after a failed write, told from new ones.

The delivery layer offers all frames of a failed write again, to a newly opened sink. A sink that had taken
some of them remembers that, so that it need not take them twice.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence

from bpfleet import Frame

__all__ = ["Mark", "Settled", "mark"]

Mark = tuple[str, int, int]


def mark(frame: Frame) -> Mark:
    """What tells `frame` from every other of this process: its kind, its seq, a checksum of its bytes.

    The checksum is for gaps, which share the seq of the record that they stand before.
    """
    return frame.kind, frame.seq, zlib.crc32(frame.data)


class Settled:
    """The frames of failed writes that need not be taken again; empty, and free, while nothing fails."""

    def __init__(self) -> None:
        self._marks: set[Mark] = set()

    def __contains__(self, frame: Frame) -> bool:
        return bool(self._marks) and mark(frame) in self._marks

    def add(self, frames: Iterable[Frame]) -> None:
        """A write has failed, but these of its frames are settled (schemas apart, which every sink needs)."""
        self._marks |= {mark(frame) for frame in frames if frame.kind != "schema"}

    def leave_behind(self, frames: Sequence[Frame]) -> None:
        """A write of `frames` has succeeded: nothing older is offered again."""
        if self._marks:
            newest = max((frame.seq for frame in frames), default=0)
            self._marks = {one for one in self._marks if one[1] > newest}

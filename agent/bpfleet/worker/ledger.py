"""What must survive a worker's death: the sequence numbers. A page of memory that the supervisor holds.

Layout, little-endian: u64 next seq at 0; from byte 64 on one slot of 40 bytes per sink: 32 bytes of
name, u64 the last seq that it was safe with."""

from __future__ import annotations

import mmap
import struct

__all__ = ["Ledger"]

_U64 = struct.Struct("<Q")
_SLOTS, _SLOT, _NAME = 64, 40, 32


class Ledger:
    """Counts records. Each write is 8 aligned bytes, so that it is whole whenever the process dies."""

    def __init__(self, fd: int) -> None:
        self._memory = mmap.mmap(fd, 0)
        if self.next_seq == 0:
            _U64.pack_into(self._memory, 0, 1)

    @property
    def next_seq(self) -> int:
        """The seq that the next record gets."""
        seq: int = _U64.unpack_from(self._memory, 0)[0]
        return seq

    def used(self, seq: int) -> None:
        """`seq` has been given to a record."""
        _U64.pack_into(self._memory, 0, seq + 1)

    def delivered(self, sink: str) -> int | None:
        """The last seq that `sink` was safe with, by this worker or one before; None for a new sink."""
        at = self._slot(sink, make=False)
        if at is None:
            return None
        seq: int = _U64.unpack_from(self._memory, at + _NAME)[0]
        return seq

    def set_delivered(self, sink: str, seq: int) -> None:
        """`sink` is safe with all records up to `seq`."""
        at = self._slot(sink, make=True)
        if at is not None:
            _U64.pack_into(self._memory, at + _NAME, seq)

    def _slot(self, sink: str, *, make: bool) -> int | None:
        name = sink.encode()[:_NAME].ljust(_NAME, b"\0")
        for at in range(_SLOTS, len(self._memory) - _SLOT, _SLOT):
            there = self._memory[at : at + _NAME]
            if there == name:
                return at
            if there == bytes(_NAME):
                if not make:
                    return None
                self._memory[at : at + _NAME] = name
                return at
        return None

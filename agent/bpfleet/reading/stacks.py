"""Stacks by their ids, from a map of type stack_trace: a lookup for each id that is asked for.

The kernel has no batches for them, and takes a stack out of the map while it copies it: so each is looked
up once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bpfleet import kernel

__all__ = ["Stack", "StackMap"]

_BUILD_ID_FLAG = 1 << 5  # BPF_F_STACK_BUILD_ID
_FRAME = np.dtype([("status", "<i4"), ("build_id", "V20"), ("address", "<u8")])
"""`struct bpf_stack_build_id`; `address` is an offset in the file where the status says so."""
_EMPTY, _VALID = 0, 1


@dataclass(frozen=True, slots=True)
class Stack:
    """One stack, the innermost frame first. With a build id, an address is the offset in its file."""

    addresses: npt.NDArray[np.uint64]
    build_ids: tuple[str, ...] = ()
    """Of each frame, "" where the kernel found none; empty for a map without build ids."""


class StackMap:
    """Looks stacks up."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.info = kernel.map_info(fd)
        self._with_build_ids = bool(self.info.flags & _BUILD_ID_FLAG)

    def get(self, number: int) -> Stack | None:
        """The stack of that id; None where the map has it no more."""
        key = np.array([number], "<u4")
        value = np.zeros(self.info.value_size, np.uint8)
        if not kernel.lookup(self._fd, key.ctypes.data, value.ctypes.data):
            return None
        if not self._with_build_ids:
            addresses = value.view("<u8")
            return Stack(addresses[addresses != 0])
        frames = value.view(_FRAME)
        frames = frames[frames["status"] != _EMPTY]
        ids = [bytes(frame["build_id"]).hex() if frame["status"] == _VALID else "" for frame in frames]
        return Stack(np.ascontiguousarray(frames["address"]), tuple(ids))

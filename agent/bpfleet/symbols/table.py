"""A table of functions: many addresses are looked up at once, and a name is made only of what was found."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Addresses", "SymbolTable"]

Addresses = npt.NDArray[np.uint64]


class SymbolTable:
    """Functions with their places. Names lie in one blob: that of function i from `name_at[i]` to the next
    byte of `ends_name`, the usual one first."""

    def __init__(
        self,
        starts: Addresses,
        sizes: Addresses,
        name_at: npt.NDArray[np.int64],
        names: bytes,
        *,
        ends_name: bytes = b"\0",
    ) -> None:
        """Any order; where functions have one address, the first counts. One of size 0 goes to the next."""
        self._starts, first = np.unique(starts, return_index=True)
        following = np.append(self._starts[1:], self._starts[-1:] + np.uint64(4096))
        sizes = sizes[first]
        self._ends = np.where(sizes > 0, self._starts + sizes, following)
        self._name_at, self._names, self._terminators = name_at[first], names, ends_name

    def __len__(self) -> int:
        return len(self._starts)

    @property
    def memory_bytes(self) -> int:
        """Bytes that it keeps."""
        return self._starts.nbytes + self._ends.nbytes + self._name_at.nbytes + len(self._names)

    def find(self, addresses: Addresses) -> list[str]:
        """The name of the function that each address is in; "" where it is in none."""
        if not len(self._starts):
            return [""] * len(addresses)
        at = np.searchsorted(self._starts, addresses, "right") - 1
        inside = (at >= 0) & (addresses < self._ends[at])
        return [self._name(i) if there else "" for i, there in zip(at.tolist(), inside.tolist(), strict=True)]

    def _name(self, index: int) -> str:
        start = int(self._name_at[index])
        end = len(self._names)
        for terminator in self._terminators:
            found = self._names.find(terminator, start, end)
            end = found if found >= 0 else end
        return self._names[start:end].decode("utf-8", "replace")


def empty_table() -> SymbolTable:
    """A table of no functions."""
    none: npt.NDArray[Any] = np.empty(0, np.uint64)
    return SymbolTable(none, none, none.astype(np.int64), b"")

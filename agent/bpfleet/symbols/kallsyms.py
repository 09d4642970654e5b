"""The kernel's symbols, from an fd of /proc/kallsyms that root opened: it shows what its opener may see."""

from __future__ import annotations

import os
import time

import numpy as np

from bpfleet.symbols.table import Addresses, SymbolTable, empty_table

__all__ = ["KernelSymbols", "parse"]

_MOST_BYTES = 64 << 20
_DIGITS = 16
_FUNCTIONS = np.frombuffer(b"tTwW", np.uint8)
_SECONDS = 60.0


def parse(data: bytes) -> SymbolTable:
    """The functions of `data`, lines such as `ffffffff81000080 T entry_SYSCALL_64<TAB>[module]`.

    Empty where the kernel hides addresses (all are 0), or where a line is something else.
    """
    raw = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(raw == ord("\n"))
    starts = np.append(0, ends[:-1] + 1)[: len(ends)]
    long_enough = ends - starts > _DIGITS + 3
    starts = starts[long_enough]
    starts = starts[np.isin(raw[starts + _DIGITS + 1], _FUNCTIONS)]
    digits = raw[starts[:, None] + np.arange(_DIGITS)]
    numbers = np.where(digits > ord("9"), digits - (ord("a") - 10), digits - ord("0"))
    if numbers.size and numbers.max() > 15:
        return empty_table()
    # Two digits make a byte, eight bytes an address.
    pairs = numbers[:, 0::2] << 4 | numbers[:, 1::2]
    addresses = np.ascontiguousarray(pairs).view(">u8").reshape(-1).astype(np.uint64)
    known = addresses != 0
    addresses, starts = addresses[known], starts[known]
    if not len(addresses):
        return empty_table()
    return SymbolTable(addresses, np.zeros_like(addresses), starts + _DIGITS + 3, data, ends_name=b"\n\t")


class _Known:
    """What was read last, and when."""

    def __init__(self) -> None:
        self.table = empty_table()
        self.read_at = float("-inf")


_known = _Known()
"""One for all collectors of the process: there is one kernel, and its table takes megabytes."""


class KernelSymbols:
    """Read when first asked, and again (once a minute at most) when an address is of something new: a module,
    a BPF program."""

    def __init__(self, fd: int, known: _Known | None = None) -> None:
        self._fd, self._known = fd, known or _known

    def find(self, addresses: Addresses) -> list[str]:
        """The name of the function that each address is in; "" where the kernel does not tell."""
        known = self._known
        names = known.table.find(addresses)
        if "" in names and time.monotonic() - known.read_at > _SECONDS:
            known.read_at = time.monotonic()
            known.table = parse(self._read())
            names = known.table.find(addresses)
        return names

    def _read(self) -> bytes:
        os.lseek(self._fd, 0, os.SEEK_SET)
        pieces, size = [], 0
        while size < _MOST_BYTES and (piece := os.read(self._fd, 1 << 20)):
            pieces.append(piece)
            size += len(piece)
        return b"".join(pieces)

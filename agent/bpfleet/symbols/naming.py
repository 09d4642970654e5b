"""From addresses to names of functions: the kernel's, a process's, those of a file known by its build id."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from pathlib import PurePath

import numpy as np

from bpfleet.symbols.elf_file import ElfFile, ElfFiles
from bpfleet.symbols.kallsyms import KernelSymbols
from bpfleet.symbols.processes import Mapping as Mapped
from bpfleet.symbols.processes import Processes
from bpfleet.symbols.table import Addresses

__all__ = ["UNKNOWN", "Naming"]

UNKNOWN = "[unknown]"
_MOST_BUILD_IDS = 4096
_LOOK_AGAIN = 60.0
_files = ElfFiles()
"""One for all collectors of the process: they meet the same libraries."""


class Naming:
    """Names addresses. Without `kernel` or `processes` those of its side are unknown."""

    def __init__(
        self,
        kernel: KernelSymbols | None = None,
        processes: Processes | None = None,
        files: ElfFiles | None = None,
    ) -> None:
        self._kernel, self._processes, self._files = kernel, processes, files or _files
        self._by_build_id: dict[str, tuple[str, int]] = {}
        self._looked_at = float("-inf")

    def kernel_names(self, addresses: Addresses) -> list[str]:
        """A name for each address, marked as the kernel's as flame graphs do: `vfs_read_[k]`."""
        found = self._kernel.find(addresses) if self._kernel else [""] * len(addresses)
        return [f"{name or UNKNOWN}_[k]" for name in found]

    def user_names(self, wanted: Mapping[int, Addresses]) -> dict[int, list[str]]:
        """For each process a name for each of its addresses: the function, else `[file+0xoffset]`, else
        `[unknown]`, as all are of a process that has ended."""
        mapped = self._mappings(wanted)
        return {
            process: self._names(addresses, mapped.get(process, [])) for process, addresses in wanted.items()
        }

    def build_id_names(self, build_id: str, offsets: Addresses) -> list[str]:
        """The function at each offset in the file of that build id, else `[build-id …+0xoffset]`.

        A file is known once a process that we heard of ran it."""
        if build_id not in self._by_build_id and time.monotonic() - self._looked_at > _LOOK_AGAIN:
            self._looked_at = time.monotonic()
            self._mappings(_all_processes())
        place = self._by_build_id.get(build_id)
        file = self._files.get(*place) if place else None
        found = file.find(offsets) if file else [""] * len(offsets)
        return [
            name or f"[build-id {build_id[:12]}+{offset:#x}]"
            for name, offset in zip(found, offsets.tolist(), strict=True)
        ]

    def _mappings(self, processes: Iterable[int]) -> dict[int, list[Mapped]]:
        """Where the processes' files lie; remembers the build ids of these."""
        if self._processes is None:
            return {}
        mapped = self._processes.mappings(processes)
        for path, inode in {(one.path, one.inode) for there in mapped.values() for one in there}:
            build_id = self._files.build_id(path, inode)
            if build_id and len(self._by_build_id) < _MOST_BUILD_IDS:
                self._by_build_id[build_id] = path, inode
        return mapped

    def _names(self, addresses: Addresses, mapped: list[Mapped]) -> list[str]:
        names = [UNKNOWN] * len(addresses)
        starts = np.array([one.start for one in mapped], np.uint64)
        at = np.searchsorted(starts, addresses, "right") - 1
        for index in np.unique(at[at >= 0]).tolist():
            one = mapped[index]
            inside = np.flatnonzero((at == index) & (addresses < np.uint64(one.end)))
            offsets = addresses[inside] - np.uint64(one.start) + np.uint64(one.offset)
            for where, name in zip(inside.tolist(), self._in_file(one, offsets), strict=True):
                names[where] = name
        return names

    def _in_file(self, one: Mapped, offsets: Addresses) -> list[str]:
        file: ElfFile | None = self._files.get(one.path, one.inode)
        found = file.find(offsets) if file else [""] * len(offsets)
        base = PurePath(one.path).name or UNKNOWN
        return [name or f"[{base}+{offset:#x}]" for name, offset in zip(found, offsets.tolist(), strict=True)]


def _all_processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]

"""What is in the kernel: for each collector the loader's answer and a copy of every fd.

While a holding lives, its programs stay attached and its maps keep their counts, whatever becomes of workers.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import msgpack

from bpfleet.ipc import close_all

__all__ = ["Holdings"]

_MOST_CHANGES = 8 << 20
"""Bytes that the worker may have kept of what was changed of one collector."""


def digest(request: dict[str, Any]) -> str:
    """What makes two load requests the same one: what they say, and the source's content."""
    made = hashlib.sha256(msgpack.packb(request))
    # Where it is no file, or can't be read, the loader says so; nothing here may block.
    with suppress(OSError):
        if stat.S_ISREG(os.stat(request["source"]).st_mode):
            with open(request["source"], "rb") as source:
                made.update(source.read())
    return made.hexdigest()


@dataclass
class Holding:
    """One collector in the kernel."""

    digest: str
    request: dict[str, Any]
    answer: dict[str, Any]
    fds: list[int]
    rings: list[mmap.mmap]
    """Perf rings live only while somebody has them mapped: we have, whatever becomes of workers."""
    grown: dict[str, list[int]] = field(default_factory=dict)
    """By what a rescan found: the fds that keep programs attached to it."""

    def close(self) -> None:
        """Detach and free it."""
        for ring in self.rings:
            ring.close()
        close_all([*self.fds, *(fd for there in self.grown.values() for fd in there)])


@dataclass
class Holdings:
    """Every collector in the kernel, by name."""

    _held: dict[str, Holding] = field(default_factory=dict)

    def find(self, request: dict[str, Any]) -> tuple[dict[str, Any], list[int]] | None:
        """The answer to exactly this request, where it was done before."""
        held = self._held.get(request["collector"])
        if held is None or held.digest != digest(request):
            return None
        return held.answer, held.fds

    def take(self, request: dict[str, Any], answer: dict[str, Any], fds: list[int]) -> None:
        """Hold what a loader gave; what was held under this name goes."""
        self.release([request["collector"]])
        rings = [
            mmap.mmap(fds[index], mmap.PAGESIZE + one["perf_bytes"], mmap.MAP_SHARED)
            for one in answer["maps"]
            for index in one["perf_fds"]
        ]
        self._held[request["collector"]] = Holding(digest(request), request, answer, fds, rings)

    def map_of(self, collector: str, name: str) -> tuple[dict[str, Any], int] | None:
        """A held map's description and fd."""
        held = self._held.get(collector)
        if held is None:
            return None
        for one in held.answer["maps"]:
            if one["name"] == name:
                return one, held.fds[one["fd"]]
        return None

    def generation(self, collector: str) -> int:
        """When it was loaded; 0 where it is not held."""
        held = self._held.get(collector)
        return 0 if held is None else int(held.answer["generation"])

    def rescans(self) -> Iterable[tuple[str, dict[str, Any]]]:
        """(collector, request) of all that is held, the places of rungs taken added to the attach list."""
        return [
            (name, {**held.request, "attach": held.answer["places"]}) for name, held in self._held.items()
        ]

    def rescan_of(self, collector: str) -> tuple[dict[str, Any], list[int]] | None:
        """What a loader is told, and the programs' fds, to look for new places; None where it has gone."""
        held = self._held.get(collector)
        if held is None:
            return None
        programs = [one for one in held.answer["programs"] if one["fd"] >= 0]
        message = {
            "op": "rescan",
            "collector": collector,
            "request": {**held.request, "attach": held.answer["places"]},
            "programs": {one["name"]: at for at, one in enumerate(programs)},
            "known": list(held.answer["known"]),
        }
        return message, [held.fds[one["fd"]] for one in programs]

    def take_rescan(self, generation: int, said: dict[str, Any], fds: list[int]) -> dict[str, str]:
        """Hold what a rescan brought and let go of what is no more; returns programs → where they are now,
        of those for which that has changed."""
        held = self._held.get(said["collector"])
        if held is None or held.answer["generation"] != generation:
            close_all(fds)
            return {}
        for name in [name for name in held.grown if name not in said["present"]]:
            close_all(held.grown.pop(name))
        for name, there in said["new"].items():
            held.grown[name] = [fds[at] for at in there]
        held.answer["known"] = list(said["present"])
        changed = {}
        for one in held.answer["programs"]:
            first = one.setdefault("first", one["attached"])
            more = said["attached"].get(one["name"])
            now = f"{first}, {more}" if more else first
            if now != one["attached"]:
                changed[one["name"]] = one["attached"] = now
        return changed

    def keep_changes(self, collector: str, changes: list[Any]) -> None:
        """What was changed of a collector while it ran, for the next worker; ValueError where it is too much.

        Not for us to understand: whoever gets it wrote it.
        """
        if not isinstance(changes, list) or len(msgpack.packb(changes)) > _MOST_CHANGES:
            raise ValueError("changes that make no sense")
        held = self._held.get(collector)
        if held is not None:
            held.answer["changes"] = changes

    def replace_walker(self, collector: str, grown: dict[str, Any], fds: list[int]) -> None:
        """Put a larger row buffer in the place of the one held; takes over `fds`."""
        held = self._held[collector]
        one = next(m for m in held.answer["maps"] if m["name"] == grown["name"])
        for part in ("walk_fd", "rows_fd", "state_fd"):
            os.close(held.fds[one[part]])
            held.fds[one[part]] = fds[grown[part]]
        one["rows_capacity"] = grown["rows_capacity"]

    def keep_only(self, collectors: Iterable[str]) -> None:
        """Detach and free every other collector."""
        self.release(set(self._held) - set(collectors))

    def release(self, collectors: Iterable[str]) -> None:
        """Detach and free these collectors."""
        for name in list(collectors):
            held = self._held.pop(name, None)
            if held is not None:
                held.close()

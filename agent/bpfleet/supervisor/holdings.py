"""What is in the kernel: for each collector the loader's answer and a copy of every fd.

While a holding lives, its programs stay attached and its maps keep their counts, whatever becomes of workers.
"""

from __future__ import annotations

import hashlib
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
    answer: dict[str, Any]
    fds: list[int]


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
        self._held[request["collector"]] = Holding(digest(request), answer, fds)

    def map_of(self, collector: str, name: str) -> tuple[dict[str, Any], int] | None:
        """A held map's description and fd."""
        held = self._held.get(collector)
        if held is None:
            return None
        for one in held.answer["maps"]:
            if one["name"] == name:
                return one, held.fds[one["fd"]]
        return None

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
                close_all(held.fds)

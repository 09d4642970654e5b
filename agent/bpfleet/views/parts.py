"""The parts of one large snapshot, put together again."""

from __future__ import annotations

from collections import OrderedDict

import msgspec
import numpy as np

from bpfleet.wire import Snapshot

__all__ = ["Assembler", "map_key"]


def map_key(snapshot: Snapshot) -> tuple[str, str, str]:
    """What tells one map of one agent from all others: (agent, collector, map)."""
    return snapshot.origin.agent, snapshot.schema.collector, snapshot.schema.map


class Assembler:
    """Joins parts; holds at most one unfinished snapshot per map, of `most` maps."""

    def __init__(self, most: int = 256) -> None:
        self._most = most
        self._waiting: OrderedDict[tuple[str, str, str], list[Snapshot]] = OrderedDict()

    def add(self, part: Snapshot) -> Snapshot | None:
        """The whole snapshot once its last part is there, None before that.

        Parts come in order. Where one is missing the others are forgotten: a gap record tells of it.
        """
        if part.parts == 1:
            return part
        key = map_key(part)
        parts = self._waiting.pop(key, [])
        if not (parts and _follows(part, parts[-1])):
            parts = []
        if part.part != len(parts):
            return None
        parts.append(part)
        if len(parts) == part.parts:
            return _joined(parts)
        self._waiting[key] = parts
        if len(self._waiting) > self._most:
            self._waiting.popitem(last=False)
        return None


def _follows(part: Snapshot, last: Snapshot) -> bool:
    return (
        part.seq == last.seq + 1
        and part.part == last.part + 1
        and (part.origin, part.generation, part.t1, part.parts, part.schema.id)
        == (last.origin, last.generation, last.t1, last.parts, last.schema.id)
    )


def _joined(parts: list[Snapshot]) -> Snapshot:
    first = parts[0]
    columns = [
        np.concatenate([part.columns[index] for part in parts]) for index in range(len(first.schema.columns))
    ]
    rows = sum(part.rows for part in parts)
    joined: Snapshot = msgspec.structs.replace(first, rows=rows, columns=columns, part=0, parts=1)
    return joined

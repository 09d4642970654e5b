"""Stacks as flame graphs' input: a line for each stack, its functions and a number (docs/stacks.md)."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np

from bpfleet.views.parts import Assembler, map_key
from bpfleet.views.stacks import StackBook, is_stack
from bpfleet.wire import Record, Snapshot

__all__ = ["Folder"]


class Folder:
    """Turns a stream of records into lines `outermost;…;innermost NUMBER`.

    The number is what the map's first counter grew by since the map's last snapshot, for all rows of one
    stack together; so lines of several snapshots may be added up, as flamegraph.pl does. Maps without stacks
    make no lines. Of at most `most` maps the last snapshot is remembered."""

    def __init__(self, most: int = 256) -> None:
        self._most = most
        self._parts = Assembler(most)
        self._stacks = StackBook(most)
        self._totals: OrderedDict[tuple[str, str, str], tuple[int, dict[bytes, int]]] = OrderedDict()

    def show(self, record: Record) -> bytes:
        """The lines for one record."""
        snapshot = self._parts.add(record) if isinstance(record, Snapshot) else None
        if snapshot is None or self._stacks.learn(snapshot):
            return b""
        columns = snapshot.schema.columns
        stack = next((i for i, column in enumerate(columns) if is_stack(column)), None)
        counter = next((i for i, c in enumerate(columns) if c.meaning == "counter" and c.count is None), None)
        if stack is None or counter is None:
            return b""
        hashes, row = np.unique(snapshot.columns[stack], return_inverse=True)
        numbers = np.zeros(len(hashes), np.uint64)
        np.add.at(numbers, row.reshape(-1), snapshot.columns[counter].astype(np.uint64))
        totals: dict[bytes, int] = dict(zip(hashes.tolist(), numbers.tolist(), strict=True))
        before = self._remember(snapshot, totals)
        texts = self._stacks.of(snapshot) or {}
        lines: list[bytes] = []
        for name, total in totals.items():
            # Less than before: the row made room for others, and is there anew.
            grown = total - before.get(name, 0) if total >= before.get(name, 0) else total
            if grown:
                lines.append(texts.get(name, name) + b" %d\n" % grown)
        return b"".join(sorted(lines))

    def _remember(self, snapshot: Snapshot, totals: dict[bytes, int]) -> dict[bytes, int]:
        """Keep `totals`, and give those of the snapshot before, if it was of the same program."""
        key = map_key(snapshot)
        generation, before = self._totals.pop(key, (snapshot.generation, {}))
        self._totals[key] = snapshot.generation, totals
        if len(self._totals) > self._most:
            self._totals.popitem(last=False)
        return before if generation == snapshot.generation else {}

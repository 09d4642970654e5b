"""Texts of stacks, from the records that tell them, for the rows that name them (docs/stacks.md)."""

from __future__ import annotations

from collections import OrderedDict

from bpfleet.views.parts import map_key
from bpfleet.wire import Column, Snapshot

__all__ = ["StackBook", "is_stack"]

_ENDING = "_stacks"


def is_stack(column: Column) -> bool:
    """Whether the column names stacks by their hash."""
    return (column.name, column.type, column.count) == ("stack", "char", 16)


class StackBook:
    """The texts heard of, by map; of at most `most_maps` maps, and `most_texts` of each: the latest."""

    def __init__(self, most_maps: int = 256, most_texts: int = 1 << 16) -> None:
        self._most_maps, self._most_texts = most_maps, most_texts
        self._books: OrderedDict[tuple[str, str, str], dict[bytes, bytes]] = OrderedDict()

    def learn(self, snapshot: Snapshot) -> bool:
        """Take the texts of a record that tells some; False for any other record."""
        columns = snapshot.schema.columns
        names = [column.name for column in columns]
        if (
            not snapshot.schema.map.endswith(_ENDING)
            or names != ["stack", "text"]
            or not is_stack(columns[0])
        ):
            return False
        agent, collector, name = map_key(snapshot)
        key = agent, collector, name.removesuffix(_ENDING)
        book = self._books.pop(key, {})
        self._books[key] = book
        if len(self._books) > self._most_maps:
            self._books.popitem(last=False)
        if snapshot.complete or len(book) + snapshot.rows > self._most_texts:
            book.clear()
        hashes, texts = (column.tolist() for column in snapshot.columns)
        book.update(zip(hashes[: self._most_texts], texts, strict=False))
        return True

    def of(self, snapshot: Snapshot) -> dict[bytes, bytes] | None:
        """The texts for a map's rows; None for a map without stacks."""
        if not any(is_stack(column) for column in snapshot.schema.columns):
            return None
        return self._books.get(map_key(snapshot))

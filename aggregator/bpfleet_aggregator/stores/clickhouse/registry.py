"""Which schema lives in which relation, agreed on by every aggregator of one database.

A schema's record is a view of constants, `Schema_00000001` and so on. Making a view is atomic, and the
second one of a name is refused, so numbers are given out without a lock: whoever is refused reads what the
other recorded, and places its schema anew behind it. All aggregators therefore place the same schemas in the
same order.
"""

from __future__ import annotations

from dataclasses import fields

from bpfleet.wire import Schema
from bpfleet_aggregator.stores.clickhouse.cluster import Everywhere
from bpfleet_aggregator.stores.clickhouse.failures import ALREADY_THERE, Refused
from bpfleet_aggregator.stores.clickhouse.literals import quoted, text
from bpfleet_aggregator.stores.clickhouse.server import Server, rows_of
from bpfleet_aggregator.stores.clickhouse.tables import Tables
from bpfleet_aggregator.stores.relations import Placement, Recorded, Relations

__all__ = ["Registry"]

_MEMBERS = tuple(member.name for member in fields(Recorded))
_PATTERN = "^Schema_[0-9]+$"
_FIRST = "Schema_00000000"


class Registry:
    """The schemas that are recorded, in order."""

    def __init__(self, server: Server, everywhere: Everywhere, tables: Tables, database: str) -> None:
        self._server = server
        self._everywhere = everywhere
        self._tables = tables
        self._database = database
        self.relations = Relations()
        self._count = 0

    def prepare(self) -> None:
        """Make what the first schema needs: an empty record, and the relation `schemas` over all of them."""
        if self._has(_FIRST):
            return
        nothing = ", ".join(f"'' AS {quoted(member)}" for member in _MEMBERS)
        self._make(_FIRST, f"SELECT toUInt32(0) AS number, {nothing} WHERE 0")

    @property
    def select(self) -> str:
        """All records, as the relation `schemas` has them."""
        members = ", ".join(map(quoted, _MEMBERS))
        return f"SELECT {members} FROM merge({text(self._database)}, {text(_PATTERN)})"

    def refresh(self) -> bool:
        """Take over what others recorded; whether there was anything."""
        found = rows_of(
            self._server,
            f"SELECT number, {', '.join(map(quoted, _MEMBERS))}"
            f" FROM merge({text(self._database)}, {text(_PATTERN)}) WHERE number > {self._count} ORDER BY"
            f" number",
        )
        for row in found:
            self._count = int(str(row.pop("number")))
            self.relations.restore(Recorded(**{key: str(value) for key, value in row.items()}))
        return bool(found)

    def place(self, schema: Schema) -> Placement:
        """Where rows of `schema` go; recorded when this returns."""
        known = {one.schema.id: one for one in self.relations.placements()}
        while schema.id not in known:
            # On a copy: a placement that another aggregator gets ahead of must leave nothing behind.
            tried = Relations()
            for one in self.relations.placements():
                tried.restore(one.recorded())
            recorded = tried.place(schema).recorded()
            number = self._count + 1
            constants = ", ".join(
                f"{text(getattr(recorded, member))} AS {quoted(member)}" for member in _MEMBERS
            )
            self._make(f"Schema_{number:08d}", f"SELECT toUInt32({number}) AS number, {constants}")
            self.refresh()
            known = {one.schema.id: one for one in self.relations.placements()}
        return known[schema.id]

    def _make(self, name: str, select: str) -> None:
        statement = f"CREATE VIEW {self._tables.named(name)}{self._tables.everywhere} AS {select}"
        try:
            self._everywhere.run(statement, lambda: self._has(name), {"max_query_size": 1 << 26})
        except Refused as refused:
            if refused.code not in ALREADY_THERE:
                raise

    def _has(self, name: str) -> bool:
        return bool(
            rows_of(
                self._server,
                f"SELECT name FROM system.tables WHERE database = {text(self._database)}"
                f" AND name = {text(name)}",
            )
        )

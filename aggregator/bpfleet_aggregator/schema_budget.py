"""How many schemas, and columns in them, agents may bring: for each a store makes tables or views.

A schema counts for the agent that was first to come with it, since this aggregator's start, and for the
store, for good. An agent whose schemas others have is never refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from bpfleet.errors import WireError
from bpfleet.stores import Store
from bpfleet.wire import Schema
from bpfleet_aggregator.config import AggregatorSettings

__all__ = ["OverBudget", "SchemaBudget"]


class OverBudget(WireError):
    """Raised for a record whose schema is one too many."""


@dataclass(slots=True)
class _Spent:
    schemas: int = 0
    columns: int = 0

    def add(self, schema: Schema) -> None:
        self.schemas += 1
        self.columns += len(schema.columns)


class SchemaBudget:
    """The schemas that were let in. For the receiving thread."""

    def __init__(self, settings: AggregatorSettings, store: Store) -> None:
        self._settings = settings
        self._known: set[str] = set()
        self._all = _Spent()
        self._of_agent: dict[str, _Spent] = {}
        # Not every store makes something for each schema: then there is nothing to go on from.
        stored: Callable[[], Iterable[Schema]] | None = getattr(store, "schemas", None)
        for schema in stored() if stored else ():
            if schema.id not in self._known:
                self._known.add(schema.id)
                self._all.add(schema)

    def admit(self, agent: str, schema: Schema) -> None:
        """Let in a record of that schema; raises OverBudget."""
        if schema.id in self._known:
            return
        of_agent = self._of_agent.get(agent, _Spent())
        settings = self._settings
        for spent, schemas, columns, whose in (
            (of_agent, settings.agent_schemas, settings.agent_columns, "this agent came with first"),
            (self._all, settings.schemas, settings.columns, "the store has"),
        ):
            if spent.schemas + 1 > schemas:
                raise self._refusal(schema, f"{spent.schemas} that {whose} are as many as are taken")
            if spent.columns + len(schema.columns) > columns:
                raise self._refusal(
                    schema,
                    f"its {len(schema.columns)} columns and the {spent.columns} of those that {whose}"
                    f" are more than {columns}",
                )
        self._known.add(schema.id)
        self._all.add(schema)
        of_agent.add(schema)
        self._of_agent[agent] = of_agent

    def _refusal(self, schema: Schema, why: str) -> OverBudget:
        return OverBudget(
            f"schema {schema.id} ({schema.collector[:64]}, map {schema.map[:64]}) is one too many: {why}"
        )

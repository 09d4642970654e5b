"""Making the database what it is to be: tables, their columns, the views over them.

Everything here may be done again, by several aggregators at once, or have been broken off half-way by a
crash.
"""

from __future__ import annotations

from collections.abc import Callable

from bpfleet.wire import Schema
from bpfleet_aggregator.stores.clickhouse.cluster import Everywhere, Shape
from bpfleet_aggregator.stores.clickhouse.dialect import Dialect
from bpfleet_aggregator.stores.clickhouse.failures import ALREADY_THERE, Refused
from bpfleet_aggregator.stores.clickhouse.literals import text
from bpfleet_aggregator.stores.clickhouse.quantile import FUNCTION
from bpfleet_aggregator.stores.clickhouse.rate_view import rate_view
from bpfleet_aggregator.stores.clickhouse.registry import Registry
from bpfleet_aggregator.stores.clickhouse.server import Server, rows_of
from bpfleet_aggregator.stores.clickhouse.settings import ClickhouseSettings
from bpfleet_aggregator.stores.clickhouse.tables import (
    Columns,
    Table,
    Tables,
    own_tables,
    rows_table,
    spread_name,
)
from bpfleet_aggregator.stores.clickhouse.views import marker, own_views, relation_view
from bpfleet_aggregator.stores.relations import Placement

__all__ = ["Definitions"]

_LONG = {"max_query_size": 1 << 26}
"""For statements that name many columns."""


class Definitions:
    """The tables and views of one database."""

    def __init__(
        self,
        server: Server,
        everywhere: Everywhere,
        settings: ClickhouseSettings,
        dialect: Dialect,
        shape: Shape,
    ) -> None:
        self._server = server
        self._everywhere = everywhere
        self._dialect = dialect
        self._database = settings.database
        self.tables = Tables(settings, dialect, is_spread=shape.is_spread)
        self._registry = Registry(server, everywhere, self.tables, settings.database)
        self._placed: dict[str, Placement] = {}
        self.types: dict[str, Columns] = {}
        """The types of each table's columns."""

    def prepare(self) -> None:
        """What is needed before the first record, and what a crash may have left undone."""
        if not self._has_database():
            self._everywhere.run(self.tables.create_database(), self._has_database)
        for table in own_tables(self._dialect):
            self._keep(table)
        self._registry.prepare()
        self._registry.refresh()
        if self._dialect.modern:
            self._everywhere.run(
                f"CREATE OR REPLACE FUNCTION histogram_quantile{self.tables.everywhere} AS {FUNCTION}",
                self._has_function,
            )
        self._keep_views()
        self._placed = {placement.schema.id: placement for placement in self._registry.relations.placements()}

    def place(self, schema: Schema) -> Placement:
        """Where rows of `schema` go: its table and views are there when this returns."""
        placed = self._placed.get(schema.id)
        if placed is None:
            placed = self._registry.place(schema)
            self._keep_views()
            self._placed[schema.id] = placed
        return placed

    def schemas(self) -> list[Schema]:
        """Those that have a place."""
        return [placement.schema for placement in self._registry.relations.placements()]

    def forget(self) -> None:
        """Something is not as remembered (a table was dropped): look again."""
        self._placed.clear()
        self.types.clear()

    def _keep(self, table: Table) -> None:
        """Make the table, or the columns that it lacks."""
        assert table.types is not None
        there = self._columns(table.name)
        if not there:
            self._everywhere.run(self.tables.create(table), lambda: bool(self._columns(table.name)))
            there = self._columns(table.name)
        for column in table.columns:
            if column not in there:
                self._add_column(table, column)
        if self.tables.is_spread:
            self._keep_spread(table)
        self.types[table.name] = table.types

    def _add_column(self, table: Table, column: str) -> None:
        self._unless_there(self.tables.add_column(table, column), lambda: column in self._columns(table.name))

    def _keep_spread(self, table: Table) -> None:
        """The Distributed table, with all columns."""
        name = spread_name(table.name)
        there = self._columns(name)
        if there >= set(table.columns):
            return
        if there:
            self._everywhere.run(self.tables.drop_spread(table.name), lambda: not self._columns(name))
        self._unless_there(self.tables.create_spread(table.name), lambda: bool(self._columns(name)))

    def _columns(self, table: str) -> set[str]:
        found = rows_of(
            self._server,
            f"SELECT name FROM system.columns WHERE database = {text(self._database)} AND table ="
            f" {text(table)}",
        )
        return {str(row["name"]) for row in found}

    def _has_database(self) -> bool:
        return bool(
            rows_of(self._server, f"SELECT name FROM system.databases WHERE name = {text(self._database)}")
        )

    def _has_function(self) -> bool:
        return bool(
            rows_of(self._server, "SELECT name FROM system.functions WHERE name = 'histogram_quantile'")
        )

    def _unless_there(self, statement: str, is_done: Callable[[], bool]) -> None:
        try:
            self._everywhere.run(statement, is_done, _LONG)
        except Refused as refused:
            if refused.code not in ALREADY_THERE:
                raise

    def _keep_views(self) -> None:
        """Make the views that are missing or not as they are to be; until no schema is added."""
        while True:
            # Also those of another aggregator, which may not have got further than to record its schema.
            for relation in list(self._registry.relations):
                table = rows_table(relation, self._dialect)
                if self.types.get(table.name) != table.types:
                    self._keep(table)
            there = self._views()
            for name, select in self._wanted_views().items():
                mark = marker(select)
                if mark not in there.get(name, ""):
                    self._replace_view(name, mark, f"WITH {text(mark)} AS definition {select}")
            if not self._registry.refresh():
                return

    def _wanted_views(self) -> dict[str, str]:
        wanted = own_views(self.tables, self._dialect, self._registry.select)
        placements = self._registry.relations.placements()
        for relation in self._registry.relations:
            wanted[relation.name] = relation_view(relation, placements, self.tables)
            if relation.has_rate:
                types = {field.name: self._dialect.type_of(field.column) for field in relation.fields}
                wanted[relation.rate_name] = rate_view(relation, placements, self.tables, types)
        return wanted

    def _views(self) -> dict[str, str]:
        """The SQL of each view that is there."""
        made = rows_of(
            self._server,
            "SELECT name, create_table_query AS sql FROM system.tables"
            f" WHERE database = {text(self._database)} AND engine = 'View' AND name NOT LIKE 'Schema%'",
        )
        return {str(row["name"]): str(row["sql"]) for row in made}

    def _replace_view(self, name: str, mark: str, select: str) -> None:
        named, everywhere = self.tables.named(name), self.tables.everywhere

        def is_made() -> bool:
            return mark in self._views().get(name, "")

        if self._dialect.modern:
            self._everywhere.run(f"CREATE OR REPLACE VIEW {named}{everywhere} AS {select}", is_made, _LONG)
        else:
            self._everywhere.run(f"DROP TABLE IF EXISTS {named}{everywhere}", lambda: True)
            self._unless_there(f"CREATE VIEW {named}{everywhere} AS {select}", is_made)

"""Which relation a schema's rows go to, and what its columns are called: the same in every store.

A relation is what a question names: a table or a view. Each map has one, `<collector>_<map>`; a schema of the
same map whose fields are of other types gets one of its own, `<name>_v2`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import msgspec

from bpfleet.errors import StoreError
from bpfleet.wire import Column, Schema

__all__ = ["FIXED", "OWN", "Field", "Placement", "Recorded", "Relation", "Relations", "identifier"]

FIXED = ("time", "agent", "host", "boot", "run", "generation", "t1", "seq", "row")
"""The columns that every map's relation begins with; a field of such a name has its part in front."""
OWN = ("agents", "collectors", "losses", "snapshots", "gaps", "statuses", "schemas")
"""Relations that are no map's."""
RATE_FIXED = ("time", "agent", "host", "t1", "seconds", "since")
"""The columns that every rate relation begins with."""

_OTHER = re.compile(r"[^a-z0-9_]+")
_LONGEST = 100
_GROWING = ("counter", "histogram")


def identifier(text: str) -> str:
    """`text` as part of an SQL name: a-z, 0-9 and _, at most 100 long; empty where nothing of it can be."""
    return _OTHER.sub("_", text.lower()).strip("_")[:_LONGEST]


@dataclass(frozen=True, slots=True)
class Field:
    """A column of a relation that comes from a map's field."""

    name: str
    """Its name in SQL."""
    column: Column
    """As the first schema that had it says."""

    @property
    def is_key(self) -> bool:
        """Whether rows are told apart by it."""
        return self.column.part == "key"

    @property
    def is_label(self) -> bool:
        """Whether it says something of the row, without being what tells rows apart: a command of a pid."""
        return not self.is_key and self.column.meaning == "label"

    @property
    def is_growing(self) -> bool:
        """Whether it has a rate: a counter or a histogram, of numbers, in the value."""
        return is_growing(self.column)


@dataclass(frozen=True, slots=True)
class RateField:
    """A growing field as the rate relation has it."""

    field: Field
    increase: str
    """The column of the increase (an array for an array)."""
    per_second: str | None
    """The column of the increase per second; None for an array."""


@dataclass(frozen=True, slots=True)
class Relation:
    """The columns of one relation after `FIXED`, of all its schemas together, in order of appearance."""

    name: str
    fields: tuple[Field, ...] = ()

    @property
    def keys(self) -> tuple[Field, ...]:
        """The fields that tell rows apart; none for a map without keys, whose rows match by `row`."""
        return tuple(field for field in self.fields if field.is_key)

    @property
    def has_rate(self) -> bool:
        """Whether there is a rate relation. Events have none: no row is what another was before."""
        events = any(field.column.meaning == "event" for field in self.fields)
        return not events and any(field.is_growing for field in self.fields)

    @property
    def rate_name(self) -> str:
        """The name of the rate relation."""
        return f"{self.name}_rate"

    def rate_columns(self) -> tuple[dict[str, Field], dict[str, Field], tuple[RateField, ...]]:
        """What follows `RATE_FIXED`: keys and labels of values by column name, then the growing fields.

        Where a name is taken (a key called `seconds`), the field's has its part in front.
        """
        taken = set(RATE_FIXED)

        def free(name: str, part: str) -> str:
            found = _free(name if name not in taken else f"{part}_{name}", taken)
            taken.add(found)
            return found

        keys = {free(field.name, "key"): field for field in self.keys}
        if not keys:
            taken.add("row")  # what stands in for the key
        labels = {free(field.name, "value"): field for field in self.fields if field.is_label}
        growing = [(field, free(field.name, "value")) for field in self.fields if field.is_growing]
        return (
            keys,
            labels,
            tuple(
                RateField(field, name, free(f"{name}_per_s", "value") if field.column.count is None else None)
                for field, name in growing
            ),
        )


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the rows of one schema go."""

    schema: Schema
    relation: Relation
    """As it is with this schema's fields."""
    fields: tuple[Field, ...]
    """One for each column of the schema, in its order."""
    added: tuple[Field, ...] = ()
    """Those that the relation did not have before this schema; all, where it is new."""
    is_new: bool = False
    """Whether the relation is there only since this schema."""

    def recorded(self) -> Recorded:
        """As it stands in the relation `schemas`."""
        columns = [
            {"sql": field.name, **column.to_plain()}
            for field, column in zip(self.fields, self.schema.columns, strict=True)
        ]
        made = self.schema
        return Recorded(
            made.id,
            self.relation.name,
            made.collector,
            made.version,
            made.map,
            made.help,
            msgspec.json.encode(columns).decode(),
        )


@dataclass(frozen=True, slots=True)
class Recorded:
    """One row of the relation `schemas`; its members are that relation's columns, all text."""

    schema: str
    relation: str
    collector: str
    version: str
    map: str
    help: str
    columns: str
    """JSON: an array of columns as docs/wire.md has them, each with its name in SQL as `sql`."""


class Relations:
    """Every relation of a store, and which schema lives in which.

    A store tells what it has recorded first (`restore`), then places what comes. A placement stays though the
    transaction that it was made for fails: what tables there are is the store's to know.
    """

    def __init__(self) -> None:
        self._relations: dict[str, Relation] = {}
        self._placements: dict[str, Placement] = {}
        self._families: dict[tuple[str, str], list[str]] = {}
        self._taken = set(OWN)

    def __iter__(self) -> Iterator[Relation]:
        return iter(self._relations.values())

    def placements(self) -> Sequence[Placement]:
        """One for each schema, in the order in which they came; each with its relation as it is now."""
        return [
            replace(one, relation=self._relations[one.relation.name]) for one in self._placements.values()
        ]

    def restore(self, recorded: Recorded) -> Placement:
        """Take over what a store has recorded; in its order. Raises StoreError for nonsense."""
        if recorded.schema in self._placements:
            return self._placements[recorded.schema]
        try:
            plain = msgspec.json.decode(recorded.columns, type=list[dict[str, str | int | None]])
            names = [str(one.pop("sql")) for one in plain]
            columns = tuple(Column(**one) for one in plain)  # type: ignore[arg-type]
        except (msgspec.DecodeError, KeyError, TypeError) as error:
            raise StoreError(
                f"the columns recorded of schema {recorded.schema} can't be read: {error}"
            ) from None
        schema = Schema(
            recorded.collector, recorded.version, recorded.map, recorded.help, columns, recorded.schema
        )
        fields = tuple(map(Field, names, columns))
        return self._keep(schema, self._relations.get(recorded.relation, Relation(recorded.relation)), fields)

    def place(self, schema: Schema) -> Placement:
        """Where rows of `schema` go; the first time also what is new with it (`added`, `is_new`)."""
        known = self._placements.get(schema.id)
        return known or self._keep(schema, *self._find(schema))

    def _find(self, schema: Schema) -> tuple[Relation, tuple[Field, ...]]:
        family = self._families.get((schema.collector, schema.map), [])
        for name in family:
            fields = _fitting(self._relations[name], schema)
            if fields is not None:
                return self._relations[name], fields
        relation = Relation(self._new_name(schema, family))
        fields = _fitting(relation, schema)
        assert fields is not None
        return relation, fields

    def _keep(self, schema: Schema, relation: Relation, fields: tuple[Field, ...]) -> Placement:
        is_new = relation.name not in self._relations
        there = {field.name for field in relation.fields}
        added = tuple(field for field in fields if field.name not in there)
        grown = replace(relation, fields=(*relation.fields, *added))
        self._relations[grown.name] = grown
        self._taken |= {grown.name, grown.rate_name}
        family = self._families.setdefault((schema.collector, schema.map), [])
        if grown.name not in family:
            family.append(grown.name)
        self._placements[schema.id] = Placement(schema, grown, fields)
        return Placement(schema, grown, fields, added, is_new)

    def _new_name(self, schema: Schema, family: Sequence[str]) -> str:
        if family:
            version = len(family) + 1
            while not self._is_free(f"{family[0]}_v{version}"):
                version += 1
            return f"{family[0]}_v{version}"
        parts = [identifier(schema.collector), identifier(schema.map)]
        name = _no_digit_first("_".join(part for part in parts if part)[:_LONGEST] or "map")
        number = 1
        while not self._is_free(name if number == 1 else f"{name}_{number}"):
            number += 1
        return name if number == 1 else f"{name}_{number}"

    def _is_free(self, name: str) -> bool:
        return name not in self._taken and f"{name}_rate" not in self._taken


def is_growing(column: Column) -> bool:
    """Whether rates of the column make sense."""
    return (
        column.part == "value" and column.meaning in _GROWING and column.type not in ("char", "bytes", "bool")
    )


def _kind(column: Column) -> tuple[object, ...]:
    """What must not change for a column to stay in its relation."""
    return column.part, column.type, column.count, is_growing(column)


def _fitting(relation: Relation, schema: Schema) -> tuple[Field, ...] | None:
    """The schema's columns as fields of the relation; None where one is of another type there."""
    known = {field.column.name: field for field in relation.fields}
    taken = {*FIXED, *(field.name for field in relation.fields)}
    fields = []
    for column in schema.columns:
        field = known.get(column.name)
        if field is None:
            name = _no_digit_first(identifier(column.name) or column.part)
            field = Field(_free(f"{column.part}_{name}" if name in FIXED else name, taken), column)
            taken.add(field.name)
        elif _kind(field.column) != _kind(column):
            return None
        fields.append(field)
    return tuple(fields)


def _free(name: str, taken: set[str]) -> str:
    number = 1
    while (name if number == 1 else f"{name}_{number}") in taken:
        number += 1
    return name if number == 1 else f"{name}_{number}"


def _no_digit_first(name: str) -> str:
    return f"_{name}" if name[0].isdigit() else name

"""Typed access to what was unpacked: whatever is missing, or of another type, is a WireError."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bpfleet.errors import WireError
from bpfleet.wire.records import ID_DIGITS, Origin
from bpfleet.wire.unpack import Limits

__all__ = ["S64", "U64", "Fields"]

U64 = (0, (1 << 64) - 1)
S64 = (-(1 << 63), (1 << 63) - 1)

NAME_BYTES = 255
_HEX = frozenset("0123456789abcdef")
_SHOWN = 40


class Fields:
    """One map of a record. `where` names it in errors."""

    __slots__ = ("limits", "record", "where")

    def __init__(self, record: dict[str, Any], where: str, limits: Limits) -> None:
        self.record = record
        self.where = where
        self.limits = limits

    def wrong(self, key: str, wanted: str) -> WireError:
        """The error that field `key` is not what was `wanted`."""
        got = _shown(self.record[key]) if key in self.record else "nothing"
        return WireError(f"field {key[:_SHOWN]!r}: expected {wanted}, got {got}", where=self.where)

    def has(self, key: str) -> bool:
        """Whether the field is there and not nil."""
        return self.record.get(key) is not None

    def integer(self, key: str, low: int = U64[0], high: int = U64[1]) -> int:
        """An integer from `low` to `high`."""
        value = self.record.get(key)
        if type(value) is not int or not low <= value <= high:
            raise self.wrong(key, f"an integer from {low} to {high}")
        return value

    def number(self, key: str) -> float:
        """An integer or a finite float."""
        value = self.record.get(key)
        if type(value) is not int and type(value) is not float:
            raise self.wrong(key, "a number")
        return value

    def text(self, key: str, most: int | None = None) -> str:
        """A text of at most `most` bytes of UTF-8."""
        value = self.record.get(key)
        if type(value) is not str:
            raise self.wrong(key, "text")
        if most is not None and (len(value) > most or len(value.encode()) > most):
            raise self.wrong(key, f"at most {most} bytes")
        return value

    def name(self, key: str, most: int = NAME_BYTES) -> str:
        """A text that names something: 1 to `most` bytes, none of them below 0x21 or 0x7f."""
        value = self.text(key, most)
        if not value or min(value) <= " " or "\x7f" in value:
            raise self.wrong(key, "a name: not empty, no blanks or control characters")
        return value

    def hex_id(self, key: str) -> str:
        """A schema's id: 32 lower-case hex digits."""
        value = self.text(key)
        if len(value) != ID_DIGITS or not _HEX.issuperset(value):
            raise self.wrong(key, f"{ID_DIGITS} hex digits")
        return value

    def flag(self, key: str) -> bool:
        """True or false."""
        value = self.record.get(key)
        if type(value) is not bool:
            raise self.wrong(key, "true or false")
        return value

    def array(self, key: str) -> list[Any]:
        """An array of anything."""
        value = self.record.get(key)
        if type(value) is not list:
            raise self.wrong(key, "an array")
        return value

    def mapping(self, key: str) -> Fields:
        """A map."""
        value = self.record.get(key)
        if type(value) is not dict:
            raise self.wrong(key, "a map")
        return Fields(value, f"{self.where}, {key[:_SHOWN]}", self.limits)

    def mappings(self, key: str) -> Iterator[Fields]:
        """An array of maps, one by one."""
        for index, item in enumerate(self.array(key)):
            where = f"{self.where}, {key}[{index}]"
            if type(item) is not dict:
                raise WireError(f"expected a map, got {_shown(item)}", where=where)
            yield Fields(item, where, self.limits)

    def counts(self, key: str) -> dict[str, int]:
        """A map of text to integers."""
        inner = self.mapping(key)
        return {name: inner.integer(name) for name in inner.record}

    def texts(self, key: str) -> dict[str, str]:
        """A map of text to text."""
        inner = self.mapping(key)
        return {name: inner.text(name) for name in inner.record}

    def origin(self) -> Origin:
        """Who speaks: agent, host, boot, run."""
        return Origin(
            self.name("agent", 64), self.text("host", NAME_BYTES), self.text("boot", 64), self.integer("run")
        )


def _shown(value: Any) -> str:
    """A value in an error: never longer than a few words, whatever it holds."""
    if isinstance(value, str):
        return repr(value[:_SHOWN]) + (" …" if len(value) > _SHOWN else "")
    if isinstance(value, list):
        return f"an array of {len(value)}"
    if isinstance(value, dict):
        return f"a map of {len(value)}"
    if isinstance(value, memoryview):
        return f"{len(value)} bytes"
    return "nil" if value is None else repr(value)

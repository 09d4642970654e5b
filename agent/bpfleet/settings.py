"""Settings models: typed, checked, with errors that name the key.

A collector's or sink's settings are a subclass of `Settings`; the configuration's table is
converted to it. Unknown keys are errors: a typo never vanishes.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, TypeVar

import msgspec

from bpfleet.errors import ConfigError

__all__ = [
    "CollectorSettings",
    "Duration",
    "Settings",
    "SinkSettings",
    "Size",
    "a_table",
    "convert",
    "read_tables",
]

_UNITS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "kB": 10**3, "MB": 10**6, "GB": 10**9}
_QUANTITY = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*\Z")


class Duration(float):
    """Seconds. Written `"10s"`, `"250ms"`, `"1m"`; units ns, us, ms, s, m, h, d."""

    @classmethod
    def parse(cls, text: object) -> Duration:
        """Read a duration as the configuration writes it; raises ValueError with the remedy."""
        seconds = _quantity(text, _UNITS, 'a duration such as "10s", "250ms" or "1m"')
        if seconds <= 0:
            raise ValueError(f"{text!r} is not longer than nothing")
        return cls(seconds)


class Size(int):
    """Bytes. Written `"64MiB"`, `"10MB"`, `"512B"`."""

    @classmethod
    def parse(cls, text: object) -> Size:
        """Read a size as the configuration writes it; raises ValueError with the remedy."""
        return cls(_quantity(text, _SIZES, 'a size such as "64MiB" or "10MB"'))


def _quantity(text: object, units: Mapping[str, float], wanted: str) -> float:
    match = _QUANTITY.match(text) if isinstance(text, str) else None
    if match is None or match.group(2) not in units:
        raise ValueError(f"expected {wanted}, got {text!r}")
    return float(match.group(1)) * units[match.group(2)]


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every settings model."""


class CollectorSettings(Settings, frozen=True, kw_only=True):
    """What every collector can be told; a collector's own model extends it."""

    enabled: bool = True
    interval: Duration | None = None
    """Time between two snapshots; the agent's interval where absent."""
    walk_limit: Duration = Duration(0.020)
    """A map whose walk takes longer is read in chunks instead."""
    row_buffer: Size = Size(64 << 20)
    """The most memory that one map's row buffer may take, or its events that wait for the next snapshot."""
    perf_buffer: Size = Size(256 << 10)
    """Bytes of each CPU's ring of a perf event array; made a power of two."""
    read: tuple[str, ...] = ("mmap", "walk", "batch", "key")
    """The reading methods allowed, best first."""


class SinkSettings(Settings, frozen=True, kw_only=True):
    """What every sink can be told; a sink's own model extends it."""

    enabled: bool = True
    type: str | None = None
    """The sink type; the table's name where absent."""
    queue: Size = Size(16 << 20)
    """Bytes of records that may wait; beyond it the oldest are dropped and told as a gap."""


def read_tables(text: str, path: str, known: Mapping[str, str], *, remedy: str) -> dict[str, Any]:
    """The tables of a TOML file; raises ConfigError where it is none (`remedy`), or has another table.

    `known` are the tables it may have, each as it is written, such as "[sinks.NAME]".
    """
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"not TOML: {error}", where=path, remedy=remedy) from None
    for name in tables:
        if name not in known:
            close = get_close_matches(name, known, 1)
            *others, last = known.values()
            raise ConfigError(
                f"there is no table [{name}]",
                where=path,
                remedy=(f"did you mean [{close[0]}]? " if close else "")
                + f"tables are {', '.join(others)} and {last}",
            )
    return tables


def a_table(value: Any, name: str, where: str) -> dict[str, Any]:
    """`value`, which is to be the table `name`; raises ConfigError where it is something else."""
    if not isinstance(value, dict):
        raise ConfigError(f"{name!r} is not a table", where=where, remedy=f"write [{name}]")
    return value


T = TypeVar("T")


def _decode(kind: type, value: Any) -> Any:
    if issubclass(kind, (Duration, Size)):
        return value if isinstance(value, kind) else kind.parse(value)
    raise NotImplementedError(f"settings of type {kind.__name__}")


def convert(table: Mapping[str, Any], model: type[T], *, where: str) -> T:
    """Make `model` of a configuration table; raises ConfigError naming `where` and the key."""
    try:
        return msgspec.convert(dict(table), model, dec_hook=_decode)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$")
        place = f"{where}{path.rstrip('`')}"
        raise _wrong(message, place, model) from None


def _wrong(message: str, place: str, model: type[Any]) -> ConfigError:
    known = [field.name for field in msgspec.structs.fields(model)]
    _, unknown, name = message.rpartition("unknown field `")
    if not unknown:
        return ConfigError(message, where=place, remedy="write the value as docs/configuration.md shows")
    name = name.rstrip("`")
    close = get_close_matches(name, known, 1)
    return ConfigError(
        f"there is no setting {name!r}",
        where=place,
        remedy=(f"did you mean {close[0]!r}? " if close else "") + f"known keys: {', '.join(known)}",
    )

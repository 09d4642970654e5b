"""What a collector's spec makes of its settings: places, ladders, knobs, data, entries; as plain data for a
loader."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
import numpy as np

from bpfleet.errors import BpfleetError, ConfigError
from bpfleet.spec import Attach, Collector, Entries, Ladders

__all__ = ["asked", "asked_ladders", "asked_places"]

T = TypeVar("T")


def asked_places(spec: Collector, settings: Any) -> Sequence[Attach]:
    """Where the spec's programs go, with these settings."""
    places = spec.attach
    return _made(spec, "attach", lambda: tuple(places(settings))) if callable(places) else places


def asked_ladders(spec: Collector, settings: Any) -> Ladders:
    """The spec's alternatives, with these settings."""
    ladders = spec.ladders
    return _made(spec, "ladders", lambda: dict(ladders(settings))) if callable(ladders) else ladders


def asked(spec: Collector, what: str, settings: Any) -> dict[str, Any]:
    """What the spec makes of the settings for `knobs`, `data` or `entries`, as plain data."""
    make = getattr(spec, what)
    if make is None:
        return {}

    def plain() -> dict[str, Any]:
        made = {str(name): value for name, value in make(settings).items()}
        if what == "entries":
            made = {name: _pairs(there) for name, there in made.items()}
        return {
            name: msgspec.to_builtins(value, builtin_types=(bytes,), enc_hook=_number)
            for name, value in made.items()
        }

    return _made(spec, what, plain)


def _made(spec: Collector, what: str, make: Callable[[], T]) -> T:
    """What a plugin's function returns; raises ConfigError where it raises anything."""
    try:
        return make()
    except BpfleetError:
        raise
    except Exception as error:
        raise ConfigError(
            f"the plugin's `{what}` raised {type(error).__name__}: {error}",
            where=f"collector {spec.name!r}",
            remedy="mend the plugin, or change the settings it chokes on",
        ) from None


def _number(value: Any) -> int | float:
    """Numbers of kinds of their own: durations, sizes, numpy's."""
    return float(value) if isinstance(value, (float, np.floating)) else operator.index(value)


def _pairs(entries: Entries) -> tuple[tuple[Any, Any], ...]:
    pairs = entries.items() if isinstance(entries, Mapping) else entries
    return tuple((key, value) for key, value in pairs)

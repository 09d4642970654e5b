"""Numbers as people read them: durations, sizes, counts, three digits or so."""

from __future__ import annotations

import math
import unicodedata
from datetime import datetime

__all__ = ["ABSENT", "quantity", "safe_text", "wall_time"]

ABSENT = "\N{EN DASH}"
"""Stands where there is no number."""

_MICRO = "\N{MICRO SIGN}s"
_SECONDS = {"ns": 1e-9, "us": 1e-6, _MICRO: 1e-6, "ms": 1e-3, "s": 1.0, "seconds": 1.0}
_DURATIONS = ((3600.0, "h"), (60.0, "min"), (1.0, "s"), (1e-3, "ms"), (1e-6, _MICRO), (1e-9, "ns"))
_SIZES = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))
_LONGEST_CLOCK = 1 << 62


def quantity(value: float, unit: str = "") -> str:
    """`value` of `unit` (ns, us, ms, s, bytes; else a plain number); "\N{EN DASH}" for NaN.

    1234567 ns is 1.23 ms, 1572864 bytes are 1.5 MiB, 1234567 of anything else 1,234,567.
    """
    if value != value or math.isinf(value):
        return ABSENT
    if unit in _SECONDS:
        return _duration(value * _SECONDS[unit])
    if unit in ("bytes", "byte", "B"):
        return _size(value)
    return _count(value)


def _duration(seconds: float) -> str:
    if seconds == 0:
        return "0 s"
    size = abs(seconds)
    # Rounding must not give 1000 of a unit.
    for scale, name in _DURATIONS:
        if size >= scale * 0.9995:
            return f"{_digits(seconds / scale)} {name}"
    return f"{seconds * 1e9:.3g} ns"


def _size(value: float) -> str:
    for scale, name in _SIZES:
        if abs(value) >= scale:
            return f"{_digits(value / scale)} {name}"
    return f"{_count(value)} B"


def _count(value: float) -> str:
    if isinstance(value, int) or (float(value).is_integer() and abs(value) < 1e15):
        return f"{int(value):,}"
    if abs(value) >= 1e15 or 0 < abs(value) < 0.01:
        return f"{value:.2e}"
    return _digits(value)


def _digits(value: float) -> str:
    """Three digits, thousands separated, no zeros that say nothing."""
    size = abs(value)
    if size >= 99.95:
        return f"{value:,.0f}"
    text = f"{value:.1f}" if size >= 9.995 else f"{value:.2f}"
    return text.rstrip("0").rstrip(".")


def wall_time(nanoseconds: int) -> str:
    """Local date and time of day, to the millisecond, of a wall clock's nanoseconds."""
    if not 0 <= nanoseconds < _LONGEST_CLOCK:
        return f"{nanoseconds} ns"
    moment = datetime.fromtimestamp(nanoseconds // 10**9)
    return f"{moment:%Y-%m-%d %H:%M:%S}.{nanoseconds // 10**6 % 1000:03d}"


def safe_text(text: str) -> str:
    """`text` without what would steer a terminal: a traced process chooses its own name."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shown_width(text: str) -> int:
    """Columns that `text` takes on a terminal."""
    if text.isascii():
        return len(text)
    return sum(_cells(character) for character in text)


def _cells(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1

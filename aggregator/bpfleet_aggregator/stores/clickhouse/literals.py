"""Values and names as SQL text. Old servers have no bound parameters, so this is where quoting is done."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Any

from bpfleet.errors import StoreError

__all__ = ["filled_in", "literal", "quoted", "text"]

_TOKENS = re.compile(
    r"""'(?:[^'\\]|\\.|'')*'|"(?:[^"\\]|\\.)*"|`(?:[^`\\]|\\.)*`|--[^\n]*|/\*.*?\*/|\?""", re.DOTALL
)


def quoted(name: str) -> str:
    """A name that may be a keyword, as `time`."""
    escaped = name.replace("\\", "\\\\").replace("`", "\\`")
    return f"`{escaped}`"


def text(value: str) -> str:
    """A text literal."""
    escaped = value.replace("\\", "\\\\").replace("'", "\\'").replace("\0", "\\0")
    return f"'{escaped}'"


def literal(value: Any, *, has_fractions: bool) -> str:
    """A parameter of a question; `has_fractions`: whether the server knows points in time below a second."""
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else {math.inf: "inf", -math.inf: "-inf"}.get(value, "nan")
    if isinstance(value, str):
        return text(value)
    if isinstance(value, datetime):
        return _moment(value if value.tzinfo else value.replace(tzinfo=UTC), has_fractions)
    if isinstance(value, date):
        return f"toDate('{value.isoformat()}')"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(literal(one, has_fractions=has_fractions) for one in value)}]"
    raise StoreError(
        f"a parameter is a {type(value).__name__}, which no question can take",
        remedy="numbers, text, dates, times and lists of them can be asked with",
    )


def _moment(value: datetime, has_fractions: bool) -> str:
    if has_fractions:
        return f"toDateTime64('{value.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}', 6, 'UTC')"
    since = value - datetime(1970, 1, 1, tzinfo=UTC)
    seconds = since.days * 86400 + since.seconds
    return f"toDecimal64('{seconds}.{since.microseconds:06d}', 6)"


def filled_in(sql: str, parameters: Sequence[Any], *, has_fractions: bool) -> str:
    """`sql` with each `?` outside of quotes and comments replaced by its parameter."""
    left = list(parameters)

    def replace(found: re.Match[str]) -> str:
        if found[0] != "?" or not parameters:  # without parameters `?` is the ternary operator's
            return found[0]
        if not left:
            raise StoreError(f"the question has more ? than its {len(parameters)} parameters")
        return literal(left.pop(0), has_fractions=has_fractions)

    made = _TOKENS.sub(replace, sql)
    if left:
        raise StoreError(
            f"the question has {len(parameters) - len(left)} ?, and {len(parameters)} parameters"
        )
    return made

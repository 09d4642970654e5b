"""`now()` in questions to servers whose points in time are decimals: those don't compare with a DateTime.

`now() - INTERVAL 5 MINUTE` becomes the decimal that it stands for. Intervals beside anything else are left as
they are.
"""

from __future__ import annotations

import re

__all__ = ["with_decimal_now"]

_SECONDS = {"SECOND": 1, "MINUTE": 60, "HOUR": 3600, "DAY": 86400, "WEEK": 7 * 86400}
_STEP = rf"\s*([-+])\s*INTERVAL\s+(\d+)\s+({'|'.join(_SECONDS)})S?\b"
_NOW = re.compile(
    r"""'(?:[^'\\]|\\.|'')*'|"(?:[^"\\]|\\.)*"|`(?:[^`\\]|\\.)*`|--[^\n]*|/\*.*?\*/"""
    rf"|(?<![\w.])(?P<now>now\s*\(\s*\))(?P<steps>(?:{_STEP.replace('(', '(?:')})*)",
    re.DOTALL | re.IGNORECASE,
)
_EACH_STEP = re.compile(_STEP, re.IGNORECASE)


def with_decimal_now(sql: str) -> str:
    """`sql` with each `now()`, and the intervals added to it, as seconds since 1970."""
    return _NOW.sub(lambda found: _decimal(found["steps"]) if found["now"] else found[0], sql)


def _decimal(steps: str) -> str:
    away = sum(
        int(f"{sign}{count}") * _SECONDS[unit.upper()] for sign, count, unit in _EACH_STEP.findall(steps)
    )
    return f"toDecimal64(toInt64(toUInt32(now())) + ({away}), 6)"

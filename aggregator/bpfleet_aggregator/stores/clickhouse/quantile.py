"""What questions can do with histograms, put into their text: servers before 21.10 have no functions in SQL.

`histogram_quantile(counts, q)` is the value at a quantile, `histogram_sum(counts)` adds up arrays, slot by
slot.
"""

from __future__ import annotations

import re

__all__ = ["FUNCTION", "with_quantiles"]


def _quantile(counts: str, q: str) -> str:
    """The value at quantile `q`: within slot i (from 1) it runs evenly from 2^(i-1) (first: 0) to 2^i."""
    # Old servers take a lambda's names for aliases of the question's, so they are rare ones.
    parts = f"arrayMap(q_n -> toFloat64(q_n), {counts})"
    sums = f"arrayCumSum({parts})"
    wanted = f"(({q}) * arraySum({parts}))"
    at = f"arrayFirstIndex((q_s, q_n) -> q_n > 0 AND q_s >= {wanted}, {sums}, {parts})"
    low = f"if({at} = 1, 0, exp2({at} - 1))"
    inside = f"greatest({wanted} - ({sums}[{at}] - {parts}[{at}]), 0)"
    return f"if({at} = 0, NULL, {low} + (exp2({at}) - {low}) * {inside} / {parts}[{at}])"


FUNCTION = f"(counts, q) -> {_quantile('counts', 'q')}"
"""The same for the server, where it can: for those who ask it without `bpfleet query`."""

_CALL = re.compile(
    r"""'(?:[^'\\]|\\.|'')*'|"(?:[^"\\]|\\.)*"|`(?:[^`\\]|\\.)*`|--[^\n]*|/\*.*?\*/|\bhistogram_(?:quantile|sum)\s*\(|[(),\[\]]""",
    re.DOTALL | re.IGNORECASE,
)


def with_quantiles(sql: str) -> str:
    """`sql` with each call of these functions replaced by what it does."""
    sql = _CALL.sub(
        lambda found: "sumForEach(" if found[0].lower().startswith("histogram_s") else found[0], sql
    )
    while True:
        found = next((one for one in _CALL.finditer(sql) if one[0].lower().startswith("histogram_q")), None)
        parts = _arguments(sql, found.end()) if found else None
        if found is None or parts is None:
            return sql  # a call that is not two arguments: the server says what is wrong with it
        counts, q, end = parts
        sql = f"{sql[: found.start()]}({_quantile(counts, q)}){sql[end:]}"


def _arguments(sql: str, begin: int) -> tuple[str, str, int] | None:
    depth, commas = 1, []
    for one in _CALL.finditer(sql, begin):
        depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(one[0][-1], 0) if one[0][0] not in "'\"`-/" else 0
        if one[0] == "," and depth == 1:
            commas.append(one.start())
        if depth == 0:
            if len(commas) != 1:
                return None
            return sql[begin : commas[0]].strip(), sql[commas[0] + 1 : one.start()].strip(), one.end()
    return None

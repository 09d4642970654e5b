"""What log2 slots say: a sparkline, and quantiles within a factor of two."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["quantile", "sparkline"]

_BARS = "\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"
_ASCII_BARS = ".:-=+*#@"


def sparkline(counts: Sequence[int], *, ascii: bool = False) -> str:
    """One character per slot; an empty slot is a space.

    Heights are linear in the count; whatever counted at all shows at least the lowest bar.
    """
    bars = _ASCII_BARS if ascii else _BARS
    highest = max(counts, default=0)
    return "".join(bars[-(-count * len(bars) // highest) - 1] if count > 0 else " " for count in counts)


def quantile(counts: Sequence[int], q: float) -> float:
    """An estimate of the `q` quantile (0 to 1) of what `counts` counted; NaN where nothing was.

    Slot 0 holds [0, 2), slot i holds [2^i, 2^(i+1)) (`bpfleet.schema.Meaning.HISTOGRAM`). Inside a slot
    values are taken as spread evenly on the log scale (in slot 0: evenly). The last slot also holds
    whatever was larger: an estimate there is a lower bound.
    """
    total = sum(counts)
    if total <= 0:
        return float("nan")
    rank = q * total
    below = 0
    for slot, count in enumerate(counts):
        if count > 0 and below + count >= rank:
            share = max(0.0, rank - below) / count
            return float(2 * share if slot == 0 else 2.0 ** (slot + share))
        below += count
    return float(2 ** len(counts))

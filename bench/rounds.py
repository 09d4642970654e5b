"""Interleaved rounds: everyone once, then everyone again, so that whatever else the machine does falls on
all alike. The order changes from round to round, since each inherits the caches of the one before.

A round of one contender is as many repeats as fill `_ROUND_NS`; its figure is the time of one repeat.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

__all__ = ["Contender", "interleave"]

_ROUND_NS = 20_000_000
_MOST_REPEATS = 2000
_SLOW_NS = 1_000_000_000
"""Of what takes longer the first run counts: a warm-up would be none."""


@dataclass
class Contender:
    """Something timed. `run(repeats)` does it that often and returns the ns that all took.

    `budget_ns` bounds the time that all of its rounds may take, of which there are at least `least`: a slow
    contender gets fewer rounds, spread over the others'.
    """

    name: str
    run: Callable[[int], int]
    budget_ns: int = 1_500_000_000
    least: int = 5
    repeats: int = 1
    rounds: int = 0
    times: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """ns of one repeat."""
        return median(self.times)

    @property
    def best(self) -> float:
        """ns of one repeat in the fastest round."""
        return min(self.times)

    @property
    def worst(self) -> float:
        """ns of one repeat in the slowest round."""
        return max(self.times)

    def calibrate(self, rounds: int) -> None:
        """Warm up, then settle how many repeats a round has, and how many rounds there are."""
        once = max(1, self.run(1))
        if once > _SLOW_NS:
            self.times.append(once)
        elif once < _ROUND_NS:
            once = max(1, min(once, self.run(1)))
        self.repeats = min(_MOST_REPEATS, max(1, _ROUND_NS // once))
        self.rounds = min(rounds, max(self.least, self.budget_ns // (once * self.repeats)))
        self.rounds -= len(self.times)

    def round(self) -> None:
        """Time one round."""
        self.times.append(self.run(self.repeats) / self.repeats)


def interleave(contenders: Sequence[Contender], rounds: int) -> None:
    """Give each contender its rounds, by turns; one with fewer takes part in every so many."""
    order = random.Random(1)
    for one in contenders:
        one.calibrate(rounds)
    for number in range(rounds):
        for one in order.sample(contenders, len(contenders)):
            if number * one.rounds // rounds != (number - 1) * one.rounds // rounds:
                one.round()

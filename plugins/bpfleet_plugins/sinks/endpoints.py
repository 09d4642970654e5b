"""Which aggregator an agent talks to: rendezvous hashing, moving on from dead ones, coming back."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Sequence

__all__ = ["Endpoints", "by_preference"]


def by_preference(endpoints: Sequence[str], agent: str) -> list[str]:
    """`endpoints` in the order that `agent` prefers them, by the highest random weight.

    The weight is the SHA-256 of agent id, NUL and endpoint. So agents spread evenly; one endpoint more moves
    only the agents that then prefer it, one less only those that had it.
    """
    return sorted(
        endpoints, key=lambda one: hashlib.sha256(f"{agent}\0{one}".encode()).digest(), reverse=True
    )


class Endpoints:
    """The endpoint to use now. `move_after` and `return_after` are in seconds."""

    def __init__(
        self,
        endpoints: Sequence[str],
        agent: str,
        *,
        move_after: float,
        return_after: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.order = by_preference(endpoints, agent)
        self._move_after, self._return_after, self._clock = move_after, return_after, clock
        self._at = 0
        self._dead_since: float | None = None
        self._return_at = float("inf")
        self._left: int | None = None
        """Where we were, while the preferred one is tried again."""

    @property
    def current(self) -> str:
        """Where to connect to."""
        return self.order[self._at]

    def worked(self) -> None:
        """The current one has confirmed something, or welcomed us."""
        self._dead_since = self._left = None
        if self._at and self._return_at == float("inf"):
            self._plan_return()

    def failed(self, *, hopeless: bool) -> bool:
        """A session with the current one failed (`hopeless`: for good); True where another is current now."""
        now = self._clock()
        if self._dead_since is None:
            self._dead_since = now
        if self._left is not None:
            self._move_to(self._left)
            self._plan_return()
        elif len(self.order) > 1 and (hopeless or now - self._dead_since >= self._move_after):
            self._move_to((self._at + 1) % len(self.order))
        else:
            return False
        return True

    @property
    def should_return(self) -> bool:
        """Whether it is time to try the preferred one again."""
        return self._clock() >= self._return_at

    def go_back(self) -> None:
        """Try the preferred one; where that fails once, `failed` leads back to where we were."""
        left = self._at
        self._move_to(0)
        self._left = left

    def _move_to(self, at: int) -> None:
        self._at, self._dead_since, self._left = at, None, None
        self._return_at = float("inf")

    def _plan_return(self) -> None:
        # Agents that left one aggregator together do not come back together.
        self._return_at = self._clock() + self._return_after * random.uniform(0.5, 1.5)

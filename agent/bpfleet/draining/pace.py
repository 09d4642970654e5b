"""When a map must be drained though no snapshot is due: before it is more than half full.

From how fast it filled up to now: by the time that it would be half full it has been drained. A map that was found empty is
asked again after the longest pause, or when the kernel says that an event came.
"""

from __future__ import annotations

__all__ = ["LONGEST", "SHORTEST", "Pace"]

SHORTEST, LONGEST = 0.002, 0.25
_CALMER = 0.9


class Pace:
    """The pause between two drains, in seconds, from the shares of the map that they found taken."""

    def __init__(self) -> None:
        self.pause = SHORTEST
        self.due = 0.0
        self._rate = 0.0
        self._last = 0.0

    def drained(self, now: float, share: float) -> None:
        """At `now` (monotonic) `share` (0 to 1) of the map was taken."""
        seconds = max(now - self._last, 1e-6)
        # The fastest of late: bursts come again.
        self._rate = max(share / seconds, self._rate * _CALMER)
        self._last = now
        self.pause = min(LONGEST, max(SHORTEST, 0.5 / self._rate if self._rate else LONGEST))
        self.due = now + self.pause

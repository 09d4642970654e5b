"""When a map must be drained though no snapshot is due: before it is more than half full.

From how fast it filled of late: long before it would be half full it has been drained. A map that was
found empty waits for the kernel's word that there is something, if it gives one, and is looked at now and
then in any case.
"""

from __future__ import annotations

__all__ = ["LONGEST", "SHORTEST", "Pace"]

SHORTEST, LONGEST = 0.002, 0.25
AFTER_WAKING = 0.005
_CALMER = 0.9
_AIM = 0.25
"""The share at which to drain: half of what must not be passed, since a machine that is busy keeps us
waiting."""


class Pace:
    """When the next drain is `due` (monotonic seconds), from the shares of the map that drains found
    taken."""

    def __init__(self) -> None:
        self.due = 0.0
        self.idle = False
        """Whether the last drain found nothing: then the kernel's word is worth listening to."""
        self._rate = 0.0
        self._last = 0.0
        self._was_empty = True

    def drained(self, now: float, share: float) -> None:
        """At `now` `share` (0 to 1) of the map was taken."""
        # Where nothing was there before, all may have come just now.
        seconds = max(AFTER_WAKING if self._was_empty else now - self._last, 1e-6)
        # The fastest of late: bursts come again.
        self._rate = max(share / seconds, self._rate * _CALMER)
        self._last, self._was_empty, self.idle = now, share == 0, share == 0
        until_then = _AIM / self._rate if self._rate else LONGEST
        self.due = now + min(LONGEST, max(SHORTEST, until_then))

    def woken(self, now: float, *, half_full: bool) -> None:
        """The kernel says that there is an event, or that the map is half full already."""
        self.due = min(self.due, now if half_full else now + AFTER_WAKING)
        self.idle = False

"""How many records each agent may have on its way."""

from __future__ import annotations

from bpfleet_aggregator.config import AggregatorSettings

__all__ = ["Credit"]

_SHARED, _SHIFT = 0.45, 0.2


class Credit:
    """The window of the settings, or less where records of all agents would not have room.

    After an outage all agents come at once, with all that they have kept; what found no room would be turned
    away, and be sent again.
    """

    def __init__(self, settings: AggregatorSettings) -> None:
        self._settings = settings
        self._usual_size = 0.0
        """Bytes of a record in memory, on average over the last batches."""

    def stored(self, records: int, memory: int) -> None:
        """These have been stored."""
        self._usual_size += _SHIFT * (memory / max(1, records) - self._usual_size)

    def of_each(self, agents: int, in_flight: int) -> int:
        """Records that one of so many may have on their way; 0 while half of the room is taken."""
        memory = self._settings.memory
        if in_flight > memory // 2:
            return 0
        share = _SHARED * memory / max(1.0, self._usual_size) / max(1, agents)
        return max(1, min(self._settings.window, int(share)))

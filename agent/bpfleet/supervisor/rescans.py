"""When a collector's programs are attached to what has come since: copies of libraries, CPUs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bpfleet.supervisor.holdings import Holdings

__all__ = ["Rescans"]

_ONLINE = Path("/sys/devices/system/cpu/online")
_KIND, _EVERYWHERE = 1, 6
"""Places in a request's attach list: the fields of `bpfleet.spec.Attach`."""


class Rescans:
    """Asks for a rescan of each collector that may need one, at its interval; `ask` queues it."""

    def __init__(self, holdings: Holdings, ask: Callable[[dict[str, Any]], None]) -> None:
        self._holdings, self._ask = holdings, ask
        self._due: dict[str, float] = {}
        self._cpus: dict[str, str] = {}

    @property
    def deadline(self) -> float:
        """When the next one is due (monotonic); infinite where none is."""
        return min(self._due.values(), default=float("inf"))

    def start_due(self) -> None:
        """Ask for those that are due; call it when the worker is sealed."""
        now = time.monotonic()
        wanted = {name: request for name, request in self._holdings.rescans() if _may_grow(request["attach"])}
        self._due = {name: self._due.get(name, now) for name in wanted}
        for name, request in wanted.items():
            if now < self._due[name]:
                continue
            self._due[name] = now + float(request["rescan"])
            online = _ONLINE.read_text()
            # A loader costs a tenth of a second of CPU: for samples it starts only when CPUs have changed.
            if self._cpus.get(name) != online or any(place[_EVERYWHERE] for place in request["attach"]):
                self._cpus[name] = online
                self._ask({"op": "rescan", "collector": name})


def _may_grow(places: Sequence[Sequence[Any]]) -> bool:
    return any(place[_EVERYWHERE] or place[_KIND] == "perf_event" for place in places)

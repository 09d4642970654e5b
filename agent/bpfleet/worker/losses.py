"""Records that a sink did not get, as runs of numbers, until they are told in gaps."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from bpfleet.kernel import boottime_ns
from bpfleet.wire import Frame, Gap, Origin, encode_gap

__all__ = ["Losses"]


@dataclass
class _Run:
    first: int
    last: int
    count: int
    reason: str


class Losses:
    """What one sink lost and has not been told of. For one thread at a time."""

    def __init__(self) -> None:
        self._runs: list[_Run] = []

    def __bool__(self) -> bool:
        return bool(self._runs)

    def one(self, seq: int, reason: str) -> None:
        """One record; what follows the one before, for the same reason, becomes one gap with it."""
        last = self._runs[-1] if self._runs else None
        if last is not None and last.reason == reason and seq == last.last + 1:
            last.last, last.count = seq, last.count + 1
        else:
            self._runs.append(_Run(seq, seq, 1, reason))

    def all_between(self, first: int, last: int, reason: str) -> None:
        """Every record from `first` to `last`."""
        self._runs.append(_Run(first, last, last - first + 1, reason))

    def taken(self, origin: Origin, sink: str, seq: int) -> list[Frame]:
        """The gaps that tell of them, before the record `seq`; from now on they are told."""
        runs, self._runs = self._runs, []
        return [
            encode_gap(Gap(origin=origin, seq=seq, sink=sink, t1=boottime_ns(), **asdict(run)))
            for run in runs
        ]

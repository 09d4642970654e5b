"""What the aggregator tells its operator: a line per event, few of each kind, and a line of progress."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from datetime import datetime
from typing import TextIO

__all__ = ["Counts", "Report"]

_AT_ONCE = 5
_WINDOW = 10.0
_MOST_KINDS = 1000


@dataclass(slots=True)
class Counts:
    """What happened since the start."""

    records: int = 0
    """Stored."""
    bytes: int = 0
    repeats: int = 0
    refused: int = 0
    """Records that never can be stored: NACK fatal."""
    over_budget: int = 0
    """Of those, the ones whose schema was one too many."""
    turned_away: int = 0
    """Records that had no room: NACK, not fatal."""
    violations: int = 0
    """Messages that were not of the protocol."""
    commits: int = 0


@dataclass(slots=True)
class _Kind:
    began: float
    told: int = 0
    kept_back: int = 0


@dataclass(slots=True)
class Report:
    """Lines on stderr. `note` is for any thread."""

    stream: TextIO = field(default_factory=lambda: sys.stderr)
    _kinds: dict[str, _Kind] = field(default_factory=dict)
    _progress: int = 0
    """Length of the line of progress that stands there."""

    def note(self, text: str, kind: str | None = None) -> None:
        """One line; of one `kind` (by default its first words) at most five in ten seconds."""
        now = time.monotonic()
        name = kind or " ".join(text.split()[:3])
        if len(self._kinds) > _MOST_KINDS:
            self._kinds.clear()
        state = self._kinds.setdefault(name, _Kind(now))
        if now - state.began > _WINDOW:
            self._close(name, state)
            state.began, state.told = now, 0
        if state.told >= _AT_ONCE:
            state.kept_back += 1
            return
        state.told += 1
        self._line(text)

    def progress(self, text: str) -> None:
        """Replace the line of progress, where there is a terminal."""
        if self.stream.isatty():
            self.stream.write("\r" + text.ljust(self._progress))
            self.stream.flush()
            self._progress = len(text)

    def catch_up(self, *, everything: bool = False) -> None:
        """Say what was kept back; to be called now and then."""
        now = time.monotonic()
        for name, state in list(self._kinds.items()):
            if everything or now - state.began > _WINDOW:
                self._close(name, state)
                del self._kinds[name]

    def _close(self, name: str, state: _Kind) -> None:
        if state.kept_back:
            self._line(f"{state.kept_back:,} more like this in {_WINDOW:.0f} s: {name}")
            state.kept_back = 0

    def _line(self, text: str) -> None:
        stamp = datetime.now().isoformat(" ", "milliseconds")
        # Over the line of progress, which comes again by itself.
        start = "\r" + " " * self._progress + "\r" if self._progress else ""
        self._progress = 0
        text = " ".join(text.split())
        self.stream.write(f"{start}{stamp}  {text}\n")
        self.stream.flush()

"""Beside a spool: how far each run of an agent got, so that the loss of the spool itself can be told.

One small file, written in place (a full disk does not keep it from being written): a line for each run with
its boot id, run, the highest seq that is settled, the highest taken, agent and host.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bpfleet.wire import Origin

__all__ = ["Mark", "Marks"]

_SIZE = 4096
_HEAD = "bpfleet spool marks 1"


@dataclass(slots=True)
class Mark:
    """Of one run: every record up to `settled` was delivered or told of, every one up to `taken` spooled."""

    settled: int
    taken: int


class Marks:
    """The marks of one spool, by origin, the latest last."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1
        self.of: dict[Origin, Mark] = {}
        with suppress(OSError):
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            self.of = _parsed(os.pread(self._fd, _SIZE, 0))

    def taken(self, origin: Origin, seq: int) -> None:
        """Records up to `seq` are in the spool now."""
        mark = self.of.setdefault(origin, Mark(seq - 1, seq))
        mark.taken = max(mark.taken, seq)

    def settled(self, origin: Origin, seq: int) -> None:
        """Records up to `seq` have left the spool for good."""
        mark = self.of.setdefault(origin, Mark(seq, seq))
        mark.settled = max(mark.settled, seq)
        mark.taken = max(mark.taken, seq)

    def missing(self) -> list[tuple[Origin, int, int]]:
        """(origin, first, last) of what was in the spool when the marks were last kept."""
        return [
            (origin, mark.settled + 1, mark.taken)
            for origin, mark in self.of.items()
            if mark.taken > mark.settled
        ]

    def keep(self) -> None:
        """Write them down, the latest first; where that fails a later loss can't be told, and that is all."""
        latest = next(reversed(self.of), None)
        self.of = {o: m for o, m in self.of.items() if m.taken > m.settled or o == latest}
        text = f"{_HEAD}\n"
        for origin, mark in reversed(self.of.items()):
            line = (
                f"{origin.boot}\t{origin.run}\t{mark.settled}\t{mark.taken}\t{origin.agent}\t{origin.host}\n"
            )
            if len((text + line).encode()) >= _SIZE:
                break
            text += line
        with suppress(OSError):
            os.pwrite(self._fd, text.encode().ljust(_SIZE, b"\n"), 0)

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _parsed(raw: bytes) -> dict[Origin, Mark]:
    found: dict[Origin, Mark] = {}
    head, *lines = raw.decode("utf-8", "replace").splitlines() or [""]
    if head != _HEAD:
        return {}
    for line in reversed(lines):
        fields = line.split("\t")
        if len(fields) == 6 and all(one.isdecimal() for one in fields[1:4]):
            boot, run, settled, taken, agent, host = fields
            found[Origin(agent, host, boot, int(run))] = Mark(int(settled), int(taken))
    return found

"""Records that a receiver will never take, kept where `bpfleet decode` can read them."""

from __future__ import annotations

import logging
from pathlib import Path

from bpfleet import BpfleetError, Frame
from bpfleet_plugins.sinks.record_file import RecordFile

__all__ = ["DeadLetters"]

log = logging.getLogger("bpfleet.sink.zmq")


class DeadLetters:
    """A file of at most about `limit` bytes, and one older of that size (`PATH.1`)."""

    def __init__(self, path: Path, user: str, limit: int) -> None:
        self.path = path
        self._user, self._limit = user, limit

    def keep(self, frame: Frame, reason: str) -> None:
        """Append `frame`, its schema before it; where even that fails the record is lost, and told so."""
        try:
            self._append([frame] if frame.schema is None else [frame.schema, frame])
        except BpfleetError as error:
            log.error("%s %d was given up: %s. It can't be kept: %s", frame.kind, frame.seq, reason, error)
            return
        log.warning("%s %d was given up: %s. It is kept in %s", frame.kind, frame.seq, reason, self.path)

    def _append(self, frames: list[Frame]) -> None:
        file = RecordFile(self.path, self._user, make_folder=True)
        try:
            if file.size and file.size + sum(len(frame.data) for frame in frames) > self._limit:
                file.rename(self.path.with_name(f"{self.path.name}.1"))
                file.close()
                file = RecordFile(self.path, self._user)
            for frame in frames:
                file.append(frame.data)
        finally:
            file.close()

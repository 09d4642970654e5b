"""Records that a receiver will never take, kept where `bpfleet decode` can read them."""

from __future__ import annotations

import logging
from pathlib import Path

import msgpack

from bpfleet import BpfleetError
from bpfleet.wire.unpack import ZSTD_MAGIC
from bpfleet_plugins.sinks.record_file import RecordFile
from bpfleet_plugins.sinks.spool import Item

__all__ = ["DeadLetters"]

log = logging.getLogger("bpfleet.sink.zmq")


class DeadLetters:
    """A file of at most about `limit` bytes, and one older of that size (`PATH.1`)."""

    def __init__(self, path: Path, user: str, limit: int) -> None:
        self.path = path
        self._user, self._limit = user, limit

    def keep(self, item: Item, schema: bytes, reason: str) -> None:
        """Append `item`, its schema before it; where even that fails the record is lost, and told so."""
        try:
            self._append([one for one in (schema, item.data) if one])
        except BpfleetError as error:
            log.error("%s %d was given up: %s. It can't be kept: %s", item.kind, item.seq, reason, error)
            return
        log.warning("%s %d was given up: %s. It is kept in %s", item.kind, item.seq, reason, self.path)

    def _append(self, frames: list[bytes]) -> None:
        # As a file has them: a compressed record is a `bin`.
        frames = [msgpack.packb(one) if one.startswith(ZSTD_MAGIC) else one for one in frames]
        file = RecordFile(self.path, self._user, make_folder=True)
        try:
            if file.size and file.size + sum(map(len, frames)) > self._limit:
                file.rename(self.path.with_name(f"{self.path.name}.1"))
                file.close()
                file = RecordFile(self.path, self._user)
            for frame in frames:
                file.append(frame)
        finally:
            file.close()

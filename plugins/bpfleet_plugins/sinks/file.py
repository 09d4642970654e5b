"""The file sink: records one after another in a file that is rotated; `bpfleet decode` reads it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgpack
import msgspec

from bpfleet import Duration, Frame, SinkContext, SinkSettings, SinkType, Size, hookimpl
from bpfleet.wire import compress
from bpfleet_plugins.sinks.offered import Settled
from bpfleet_plugins.sinks.record_file import RecordFile
from bpfleet_plugins.sinks.rotation import prune, rotated_name

__all__ = ["FileSettings", "FileSink", "bpfleet_sinks"]

_written: dict[Path, Settled] = {}
"""By path, the frames of a failed write that are in the file nevertheless; it outlives the sink object."""


class FileSettings(SinkSettings, frozen=True, kw_only=True):
    """Where records go, and how long they stay."""

    path: str = "records.bpfleet"
    """The file; a relative path is under the agent's state folder."""
    rotate_size: Size = Size(64 << 20)
    """A file that would grow beyond it is put aside before the next record."""
    rotate_age: Duration = Duration(3600.0)
    """So is a file whose first record is older."""
    keep: Annotated[int, msgspec.Meta(ge=0)] = 24
    """Rotated files kept beside the current one; the oldest are deleted."""
    compression: Literal["none", "zstd"] = "none"
    level: Annotated[int, msgspec.Meta(ge=1, le=19)] = 3
    """Of zstd: 1 is fastest, 19 smallest."""
    fsync: Literal["never", "interval", "always"] = "interval"
    """When records are forced to the disk: left to the kernel, every `fsync_interval`, after each write."""
    fsync_interval: Duration = Duration(5.0)


class FileSink:
    """Appends records; every file it leaves behind can be decoded alone."""

    def __init__(self, settings: FileSettings, context: SinkContext) -> None:
        self._settings = settings
        self._path = context.state / settings.path
        self._under_state = not Path(settings.path).is_absolute()
        self._user = context.user
        self._schemas: set[bytes] = set()
        self._synced_at = time.monotonic()
        self._unsynced = False
        self._file = self._open()
        prune(self._path, settings.keep)

    def write(self, frames: Sequence[Frame]) -> None:
        """Append `frames`; those of a failed write before that are in the file already are left out."""
        if self._file.moved():
            self.close()
            self._file = self._open()
        written = _written.setdefault(self._path, Settled())
        done = 0
        try:
            for frame in frames:
                if frame not in written:
                    self._append(frame)
                done += 1
        except BaseException:
            written.add(frames[:done])
            raise
        written.leave_behind(frames)
        # Where this fails nobody knows what is on the disk: the records are written again.
        self._sync_if_due()

    def close(self) -> None:
        """Bring what is written to the disk, unless that is left to the kernel, and close."""
        unsynced, self._unsynced = self._unsynced, False
        try:
            if self._settings.fsync != "never" and unsynced:
                self._file.sync()
        finally:
            self._file.close()

    def _open(self) -> RecordFile:
        self._schemas.clear()
        return RecordFile(self._path, self._user, make_folder=self._under_state)

    def _append(self, frame: Frame) -> None:
        records = self._records(frame)
        if records and self._is_due(sum(map(len, records))):
            self._rotate()
            records = self._records(frame)
        for data in records:
            self._file.append(data)
            self._unsynced = True
        schema = _schema_of(frame)
        if schema is not None:
            self._schemas.add(bytes(schema.data))

    def _records(self, frame: Frame) -> list[bytes | memoryview]:
        """The frame, and before it its schema where the file has not got that yet."""
        schema = _schema_of(frame)
        missing = schema is not None and bytes(schema.data) not in self._schemas
        first = [self._packed(schema)] if schema is not None and missing else []
        return first if frame.kind == "schema" else [*first, self._packed(frame)]

    def _packed(self, frame: Frame) -> bytes | memoryview:
        if self._settings.compression == "zstd":
            packed: bytes = msgpack.packb(compress(frame.data, self._settings.level))
            if len(packed) < len(frame.data):
                return packed
        return frame.data

    def _is_due(self, more: int) -> bool:
        return self._file.size > 0 and (
            self._file.size + more > self._settings.rotate_size
            or time.time() - self._file.began >= self._settings.rotate_age
        )

    def _rotate(self) -> None:
        self._file.rename(rotated_name(self._path, time.time()))
        # Closed, and so unlocked, only after the rename: nobody else can have begun to write to it.
        self.close()
        self._file = self._open()
        prune(self._path, self._settings.keep)

    def _sync_if_due(self) -> None:
        when = self._settings.fsync
        if when == "never" or not self._unsynced:
            return
        now = time.monotonic()
        if when == "always" or now - self._synced_at >= self._settings.fsync_interval:
            self._file.sync()
            self._synced_at, self._unsynced = now, False


def _schema_of(frame: Frame) -> Frame | None:
    return frame if frame.kind == "schema" else frame.schema


@hookimpl
def bpfleet_sinks() -> list[SinkType]:
    """The file sink."""
    return [
        SinkType(
            name="file",
            help="Appends records to a file and rotates it; bpfleet decode reads it.",
            open=FileSink,
            settings=FileSettings,
        )
    ]

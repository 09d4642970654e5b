"""The stdout sink: tables for people, JSON lines or the wire format for programs."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import msgspec

from bpfleet import Frame, SinkContext, SinkError, SinkSettings, SinkType, hookimpl
from bpfleet.views import Folder, Follower, json_line, look_for
from bpfleet.wire import Decoder, Record, UnknownSchema
from bpfleet_plugins.sinks.descriptor import ReaderGone, write_all

__all__ = ["StdoutSettings", "StdoutSink", "bpfleet_sinks"]

log = logging.getLogger("bpfleet.sink.stdout")

_WHERE = "standard output"
_gone_told = False


class StdoutSettings(SinkSettings, frozen=True, kw_only=True):
    """How records are printed."""

    format: Literal["table", "json", "msgpack", "folded"] | None = None
    """table, json, msgpack or folded (stacks, for flame graphs); where absent a table on a terminal, else
    json."""
    rows: Annotated[int, msgspec.Meta(ge=1)] = 10
    """Rows that a table shows of one snapshot: the largest."""
    color: bool | None = None
    """Whether tables are coloured; where absent, on a terminal without NO_COLOR."""


class StdoutSink:
    """Prints each record to `fd` as it comes."""

    def __init__(self, settings: StdoutSettings, context: SinkContext, fd: int = 1) -> None:
        self._stopping = context.stopping
        self._fd = fd
        self._decoder = Decoder()
        self._text = self._choose(settings)
        # Ends the line that the worker before us may have been killed in.
        self._head = b"\n" if context.resumed and settings.format != "msgpack" else b""

    def write(self, frames: Sequence[Frame]) -> None:
        """Print `frames`; waits for a slow reader."""
        global _gone_told
        data = b"".join([self._head, *(self._text(frame) for frame in frames)])
        self._head = b""
        try:
            write_all(self._fd, data, self._stopping, where=_WHERE)
        except ReaderGone as error:
            if not _gone_told:
                _gone_told = True
                log.warning("%s", error)
            raise

    def close(self) -> None:
        """Nothing is held; the descriptor belongs to the process."""

    def _choose(self, settings: StdoutSettings) -> Callable[[Frame], bytes]:
        """What makes a frame into bytes; raises SinkError where there is no standard output to print to."""
        try:
            terminal = os.isatty(self._fd)
            os.fstat(self._fd)
        except OSError as error:
            raise SinkError(
                f"is not open: {error.strerror}",
                where=_WHERE,
                remedy="start the agent with its standard output open, or leave this sink out",
            ) from None
        form = settings.format or ("table" if terminal else "json")
        if form == "msgpack":
            if terminal:
                raise SinkError(
                    "binary records are no use on a terminal",
                    where=_WHERE,
                    remedy='send them to a file or a pipe, or use format = "json"',
                )
            return lambda frame: bytes(frame.data)
        if form == "json":
            return lambda frame: json_line(self._record(frame))
        if form == "folded":
            folder = Folder()
            return lambda frame: folder.show(self._record(frame))
        follower = Follower(look_for(self._fd, rows=settings.rows, color=settings.color))
        return lambda frame: follower.show(self._record(frame)).encode("utf-8", "replace")

    def _record(self, frame: Frame) -> Record:
        try:
            return self._decoder.decode(frame.data)
        except UnknownSchema:
            if frame.schema is None:
                raise
            self._decoder.decode(frame.schema.data)
            return self._decoder.decode(frame.data)


@hookimpl
def bpfleet_sinks() -> list[SinkType]:
    """The stdout sink."""
    return [
        SinkType(
            name="stdout",
            help="Prints records to standard output: tables, JSON lines or msgpack.",
            open=StdoutSink,
            settings=StdoutSettings,
        )
    ]

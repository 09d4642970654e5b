"""lines: one line of text per record, in a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bpfleet import Frame, Sink, SinkContext, SinkError, SinkSettings, SinkType, hookimpl
from bpfleet.wire import Decoder, Snapshot


class Settings(SinkSettings, frozen=True, kw_only=True):
    """Where to write."""

    path: str


class Lines:
    """Appends to a file."""

    def __init__(self, settings: Settings, context: SinkContext) -> None:
        try:
            self._file = Path(context.state, settings.path).open("a")  # noqa: SIM115 - closed by close()
        except OSError as error:
            raise SinkError(
                str(error), where=settings.path, remedy="give a path in the state directory"
            ) from None
        self._decoder = Decoder()

    def write(self, frames: Sequence[Frame]) -> None:
        """One line for each."""
        for frame in frames:
            record = self._decoder.decode(frame.data)
            if isinstance(record, Snapshot):
                for row in record.to_rows():
                    print(record.schema.map, *row.values(), file=self._file)
            else:
                print(frame.kind, file=self._file)
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def open_lines(settings: Settings, context: SinkContext) -> Sink:
    """Open the sink."""
    return Lines(settings, context)


@hookimpl
def bpfleet_sinks() -> list[SinkType]:
    """Our one sink."""
    return [SinkType(name="lines", help="One line per record", open=open_lines, settings=Settings)]

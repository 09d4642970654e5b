"""`bpfleet decode`: the records of files, or of a pipe, as JSON lines or tables."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from typing import BinaryIO

import click

from bpfleet.errors import WireError
from bpfleet.views import Folder, Follower, json_line, look_for
from bpfleet.wire import Decoder, Record, Schema, Snapshot
from bpfleet.wire.pipe import read_pipe
from bpfleet.wire.stream import CutOff

__all__ = ["command"]

_KINDS = ("snapshot", "schema", "gap", "status")
_MOST_COMPLAINTS = 10


@click.command("decode")
@click.argument(
    "files",
    metavar="FILE…",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, dir_okay=False, readable=True, allow_dash=True),
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["json", "table", "folded"]),
    default="json",
    show_default=True,
    help="One JSON object per line, tables, or stacks for flame graphs.",
)
@click.option("--kind", "kinds", type=click.Choice(_KINDS), multiple=True, help="Only records of this kind.")
@click.option(
    "--collector", "collectors", metavar="NAME", multiple=True, help="Only this collector's records."
)
@click.option("--rows", type=click.IntRange(1), default=10, show_default=True, help="Rows of a table.")
def command(
    files: tuple[str, ...], form: str, kinds: tuple[str, ...], collectors: tuple[str, ...], rows: int
) -> None:
    """Print the records of FILE…, one JSON object per line; - is standard input.

    A last record that is cut off (its writer was killed, say) is told on stderr and is no failure. Where
    bytes are damaged the exit code is 1; whatever else can be read is printed.
    """
    reading = _Reading(_printer(form, rows), lambda record: _wanted(record, kinds, collectors))
    try:
        for name in files:
            for text in reading.texts(name):
                sys.stdout.buffer.write(text)
                if name == "-":
                    sys.stdout.buffer.flush()
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        _print_no_more()  # the reader has gone (`| head`)
    except OSError as error:
        _complain(f"standard output can't be written: {error.strerror}")
        _print_no_more()
        reading.failed = True
    if reading.failed:
        sys.exit(1)


class _Reading:
    """Reads files, complaining on stderr; `failed` where something could not be read or was damaged."""

    def __init__(self, text: Callable[[Record], bytes], wanted: Callable[[Record], bool]) -> None:
        self.failed = False
        self._text, self._wanted = text, wanted
        self._decoder = Decoder()

    def texts(self, name: str) -> Iterator[bytes]:
        """What is printed for each record of one file."""
        shown = "standard input" if name == "-" else name
        try:
            if name == "-":
                yield from self._texts(sys.stdin.buffer, shown)
            else:
                with open(name, "rb") as file:
                    yield from self._texts(file, shown)
        except CutOff as error:
            _complain(str(error))
        except WireError as error:
            self._fail(str(error))
        except OSError as error:
            self._fail(f"{shown} can't be read: {error.strerror}")

    def _texts(self, file: BinaryIO, name: str) -> Iterator[bytes]:
        bad = 0
        for offset, frame in read_pipe(file, name):
            try:
                record = self._decoder.decode(frame, where=f"{name} at byte {offset}")
                text = self._text(record) if self._wanted(record) else b""
            except WireError as error:
                bad += 1
                if bad <= _MOST_COMPLAINTS:
                    self._fail(str(error))
                continue
            if text:
                yield text
        if bad > _MOST_COMPLAINTS:
            self._fail(f"{name}: {bad - _MOST_COMPLAINTS} more records can't be decoded")

    def _fail(self, message: str) -> None:
        self.failed = True
        _complain(message)


def _printer(form: str, rows: int) -> Callable[[Record], bytes]:
    if form == "json":
        return json_line
    if form == "folded":
        return Folder().show
    follower = Follower(look_for(sys.stdout.fileno(), rows=rows))
    return lambda record: follower.show(record).encode("utf-8", "replace")


def _wanted(record: Record, kinds: tuple[str, ...], collectors: tuple[str, ...]) -> bool:
    if kinds and type(record).__name__.lower() not in kinds:
        return False
    if not collectors:
        return True
    schema = record.schema if isinstance(record, Snapshot) else record
    return isinstance(schema, Schema) and schema.collector in collectors


def _complain(message: str) -> None:
    click.echo(f"bpfleet: {message}", err=True)


def _print_no_more() -> None:
    """Have what is still buffered go nowhere, so that nothing fails at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

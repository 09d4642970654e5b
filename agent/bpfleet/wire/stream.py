"""Records one after another in a file.

The file is a stream of msgpack objects: a map is a record, a `bin` is a record compressed with
zstd. Both say their own length, so the end of a file cut off in mid-write can be told.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import msgpack

from bpfleet.errors import WireError
from bpfleet.wire.unpack import ZSTD_MAGIC, Limits

__all__ = ["CutOff", "read_file", "whole_bytes"]

_CHUNK = 1 << 20
_BIN_HEADERS = {0xC4: 2, 0xC5: 3, 0xC6: 5}


class CutOff(WireError):
    """Raised when the last record of a file is not whole; `offset` is where it begins."""

    def __init__(self, path: Path, offset: int, size: int) -> None:
        super().__init__(
            f"the last record is cut off: {size - offset} bytes of it are there",
            where=f"{path} at byte {offset}",
            remedy="the records before it are whole; the writer was stopped in mid-write",
        )
        self.offset = offset


def read_file(path: Path, limits: Limits | None = None) -> Iterator[tuple[int, bytes]]:
    """(offset, frame) of each record of `path`, frames as `wire.decode` takes them.

    `path` may be a pipe; about two records are in memory at a time. Raises CutOff after the last whole
    record where the file ends in the middle of one, WireError where bytes are no record, OSError where the
    file can't be read. What a record holds is the decoder's to check.
    """
    with path.open("rb", buffering=0) as file:
        for start, record in _records(file, path, (limits or Limits()).frame_bytes):
            yield start, record[_BIN_HEADERS.get(record[0], 0) :]


def whole_bytes(path: Path, limits: Limits | None = None) -> int:
    """The size of the part of `path` that is whole records; a writer cuts off what follows.

    What follows is a record that is cut off, or zeros (as some file systems leave after a power failure).
    Raises WireError for anything else: such a file is damaged, or somebody else's, and not to be cut.
    """
    end = 0
    with path.open("rb", buffering=0) as file:
        if not _begins_ours(file.read(8)):
            if _only_zeros(file, 0):
                return 0
            raise WireError(
                "the file does not begin with a record",
                where=str(path),
                remedy="name another file, or move this one away",
            )
        file.seek(0)
        try:
            for start, record in _records(file, path, (limits or Limits()).frame_bytes):
                end = start + len(record)
        except CutOff:
            pass
        except WireError:
            if not _only_zeros(file, end):
                raise
    return end


def _begins_ours(head: bytes) -> bool:
    """Whether a file that begins so was written by us; its first record may be cut off after any byte."""
    if not head:
        return True
    at, expected = 1, b"\xa1v\x01"
    if head[0] in _BIN_HEADERS:
        at, expected = _BIN_HEADERS[head[0]], ZSTD_MAGIC
    elif head[0] == 0xDE:
        at = 3
    elif not 0x80 <= head[0] <= 0x8F:
        return False
    return expected.startswith(head[at : at + len(expected)])


def _only_zeros(file: BinaryIO, start: int) -> bool:
    file.seek(start)
    while chunk := file.read(_CHUNK):
        if chunk.count(0) != len(chunk):
            return False
    return True


def _records(file: BinaryIO, path: Path, most: int) -> Iterator[tuple[int, bytes]]:
    """(offset, bytes) of each whole msgpack object that may be a record; none is built to find its end."""
    unpacker = msgpack.Unpacker(max_buffer_size=most + 2 * _CHUNK)
    held = bytearray()
    base = 0  # the offset of held[0]
    start = 0
    while True:
        if start - base < len(held):
            _check_first(held[start - base], path, start)
        try:
            unpacker.skip()
        except msgpack.OutOfData:
            del held[: start - base]
            base = start
            if len(held) > most:
                raise _too_long(path, start, most) from None
            chunk = file.read(_CHUNK)
            if not chunk:
                if held:
                    raise CutOff(path, start, start + len(held)) from None
                return
            unpacker.feed(chunk)
            held += chunk
            continue
        except (ValueError, msgpack.UnpackException) as error:
            raise WireError(
                f"not msgpack: {error or type(error).__name__}", where=f"{path} at byte {start}"
            ) from None
        stop = unpacker.tell()
        # A `bin` has its header on top of the frame.
        if stop - start > most + max(_BIN_HEADERS.values()):
            raise _too_long(path, start, most)
        yield start, bytes(held[start - base : stop - base])
        start = stop


def _check_first(first: int, path: Path, start: int) -> None:
    if first in _BIN_HEADERS or 0x80 <= first <= 0x8F or first in (0xDE, 0xDF):
        return
    raise WireError(
        f"byte 0x{first:02x} begins no record",
        where=f"{path} at byte {start}",
        remedy="is this a file of bpfleet's file sink?",
    )


def _too_long(path: Path, start: int, most: int) -> WireError:
    return WireError(f"a record of more than {most} bytes", where=f"{path} at byte {start}")

"""Records one after another from anything that can be read once, such as a pipe.

Nothing is mapped, so a file may be written to, or cut, while it is read; `stream` reads files that nobody
else writes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import msgpack

from bpfleet.errors import WireError
from bpfleet.wire.decode import Limits
from bpfleet.wire.stream import CutOff

__all__ = ["read_pipe"]

_CHUNK = 1 << 16
_BIN = {0xC4: 2, 0xC5: 3, 0xC6: 5}


def read_pipe(file: BinaryIO, name: str, limits: Limits | None = None) -> Iterator[tuple[int, bytes]]:
    """(offset, frame) of each record, as `stream.read_file` gives them, each as soon as it is whole.

    Raises what `read_file` raises; `name` is how errors call the pipe.
    """
    most = (limits or Limits()).frame_bytes
    unpacker = msgpack.Unpacker(max_buffer_size=most + 2 * _CHUNK, max_bin_len=most)
    held = bytearray()
    start = 0
    read = getattr(file, "read1", file.read)
    while True:
        try:
            unpacker.skip()
        except msgpack.OutOfData:
            if len(held) > most + _CHUNK:
                raise WireError(
                    f"a record of more than {most} bytes", where=f"{name} at byte {start}"
                ) from None
            chunk = read(_CHUNK)
            if not chunk:
                break
            unpacker.feed(chunk)
            held += chunk
            continue
        except (ValueError, msgpack.UnpackException) as error:
            raise WireError(
                f"not msgpack: {error or type(error).__name__}", where=f"{name} at byte {start}"
            ) from None
        size = unpacker.tell() - start
        record = bytes(held[:size])
        del held[:size]
        yield start, _frame(record, f"{name} at byte {start}")
        start += size
    if held:
        raise CutOff(Path(name), start, start + len(held))


def _frame(record: bytes, where: str) -> bytes:
    first = record[0]
    if first in _BIN:
        return record[_BIN[first] :]
    if 0x80 <= first <= 0x8F or first in (0xDE, 0xDF):
        return record
    raise WireError(
        f"byte 0x{first:02x} begins no record", where=where, remedy="is this what a bpfleet sink wrote?"
    )

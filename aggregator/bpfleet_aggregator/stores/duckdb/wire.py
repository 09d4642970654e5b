"""What goes over the store's socket.

A request is a length (u32, little-endian) and so many bytes of JSON: `sql`, `parameters`. The answer is
frames: one byte says what (`D` bytes of an Arrow IPC stream, `Z` the end, `E` an error as JSON, the last
frame too), a length (u32), and so many bytes.
"""

from __future__ import annotations

import io
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from bpfleet.errors import BpfleetError, StoreError

__all__ = ["SOCKET", "AnswerReader", "AnswerWriter", "Request", "address", "receive_request", "send_request"]

SOCKET = "socket"
_LENGTH = struct.Struct("<I")
_HEAD = struct.Struct("<cI")
_LONGEST_REQUEST = 1 << 20
_LONGEST_FRAME = 1 << 30


class Request(msgspec.Struct, frozen=True):
    """One question."""

    sql: str
    parameters: list[Any] = []


@contextmanager
def address(folder: Path) -> Iterator[str]:
    """The socket's address: by way of the folder's descriptor, since paths of sockets must be short."""
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{SOCKET}"
    finally:
        os.close(fd)


def send_request(connection: socket.socket, sql: str, parameters: Sequence[Any]) -> None:
    """Ask."""
    data = msgspec.json.encode(Request(sql, list(parameters)))
    connection.sendall(_LENGTH.pack(len(data)) + data)


def receive_request(connection: socket.socket) -> Request | None:
    """What is asked; None where the peer has gone. Raises StoreError for what is no request."""
    head = _exactly(connection, _LENGTH.size)
    if not head:
        return None
    (size,) = _LENGTH.unpack(head)
    if size > _LONGEST_REQUEST:
        raise StoreError(f"a question of {size} bytes, the limit is {_LONGEST_REQUEST}")
    try:
        return msgspec.json.decode(_exactly(connection, size), type=Request)
    except msgspec.DecodeError as error:
        raise StoreError(f"what came over the socket is no question: {error}") from None


class AnswerWriter(io.RawIOBase):
    """A file whose bytes go out as frames."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self._frame(b"D", view)
        return len(view)

    def end(self) -> None:
        """All is said."""
        self._frame(b"Z", b"")

    def fail(self, error: BpfleetError) -> None:
        """No more will come, since…"""
        self._frame(b"E", msgspec.json.encode(error.to_plain()))

    def _frame(self, kind: bytes, data: bytes | memoryview) -> None:
        self._connection.sendall(_HEAD.pack(kind, len(data)))
        if data:
            self._connection.sendall(data)


class AnswerReader(io.RawIOBase):
    """A file that reads the bytes of the frames; at its end `error` says whether all has come."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._left = memoryview(b"")
        self._at_end = False
        self.error: BpfleetError | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._left and not self._at_end:
            self._next()
        count = min(len(buffer), len(self._left))
        buffer[:count] = self._left[:count]
        self._left = self._left[count:]
        return count

    def finish(self) -> None:
        """Read what is left: `error` is set where the answer did not come to its end."""
        while not self._at_end:
            self._next()

    def _next(self) -> None:
        head = _exactly(self._connection, _HEAD.size)
        kind, size = _HEAD.unpack(head) if head else (b"", 0)
        data = _exactly(self._connection, size) if kind and size <= _LONGEST_FRAME else b""
        if kind == b"D":
            self._left = memoryview(data)
            return
        self._at_end = True
        if kind == b"E" and data:
            self.error = BpfleetError.from_plain(msgspec.json.decode(data))
        elif kind != b"Z":
            self.error = StoreError("the aggregator ended in the middle of the answer", remedy="ask again")


def _exactly(connection: socket.socket, size: int) -> bytes:
    """So many bytes, or none where the peer has gone."""
    data = bytearray()
    while len(data) < size:
        more = connection.recv(min(size - len(data), 1 << 20))
        if not more:
            return b""
        data += more
    return bytes(data)

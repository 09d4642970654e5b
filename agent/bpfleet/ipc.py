"""Messages with file descriptors between the agent's processes, over a unix stream socket.

One message: `u32 length, u32 fds` (little-endian), `length` bytes of msgpack, then the fds in
groups, each group riding on one byte (SCM_RIGHTS; Linux takes at most 253 at once)."""

from __future__ import annotations

import array
import os
import socket
import struct
from collections.abc import Sequence
from typing import Any

import msgpack

__all__ = ["Channel", "ChannelClosed"]

_HEADER = struct.Struct("<II")
_GROUP = 200
_MOST_BYTES = 64 << 20
_MOST_FDS = 4096


class ChannelClosed(Exception):
    """Raised when the peer has gone, or said what no peer of ours says."""


class Channel:
    """One end of a connection. `send` and `receive` block, at most `timeout` seconds each."""

    def __init__(self, sock: socket.socket, timeout: float | None = 30.0) -> None:
        self.socket = sock
        sock.settimeout(timeout)

    @staticmethod
    def pair() -> tuple[Channel, socket.socket]:
        """Our end, and the socket that a child process inherits."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        return Channel(ours), theirs

    def fileno(self) -> int:
        """For selectors."""
        return self.socket.fileno()

    def close(self) -> None:
        """Close our end."""
        self.socket.close()

    def send(self, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
        """Send one message; the fds stay open here."""
        body = msgpack.packb(message)
        try:
            self.socket.sendall(_HEADER.pack(len(body), len(fds)) + body)
            for at in range(0, len(fds), _GROUP):
                rights = array.array("i", fds[at : at + _GROUP])
                self.socket.sendmsg([b"f"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        except OSError as error:
            raise ChannelClosed(str(error)) from None

    def receive(self) -> tuple[dict[str, Any], list[int]]:
        """The next message and its fds, which the caller owns (close-on-exec)."""
        length, count = _HEADER.unpack(self._exactly(_HEADER.size))
        if length > _MOST_BYTES or count > _MOST_FDS:
            raise ChannelClosed(f"a message of {length} bytes and {count} fds")
        body = self._exactly(length)
        fds: list[int] = []
        try:
            while len(fds) < count:
                fds.extend(self._group())
            message = _unpack(body)
        except BaseException:
            close_all(fds)
            raise
        return message, fds

    def _exactly(self, size: int) -> bytes:
        parts = bytearray()
        try:
            while len(parts) < size:
                part = self.socket.recv(min(size - len(parts), 1 << 16))
                if not part:
                    raise ChannelClosed("the peer has closed the connection")
                parts += part
        except OSError as error:
            raise ChannelClosed(str(error)) from None
        return bytes(parts)

    def _group(self) -> list[int]:
        space = socket.CMSG_SPACE(_GROUP * 4)
        try:
            byte, ancillary, _, _ = self.socket.recvmsg(1, space, socket.MSG_CMSG_CLOEXEC)
        except OSError as error:
            raise ChannelClosed(str(error)) from None
        if not byte:
            raise ChannelClosed("the peer has closed the connection")
        fds = array.array("i")
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
        if not fds:
            raise ChannelClosed("fds were announced and none came; is the limit on open files reached?")
        return list(fds)


def _unpack(body: bytes) -> dict[str, Any]:
    try:
        message = msgpack.unpackb(body)
    except (ValueError, msgpack.UnpackException) as error:
        raise ChannelClosed(f"a message that is no msgpack: {error}") from None
    if not isinstance(message, dict):
        raise ChannelClosed("a message that is no map")
    return message


def close_all(fds: Sequence[int]) -> None:
    """Close every fd."""
    for fd in fds:
        os.close(fd)

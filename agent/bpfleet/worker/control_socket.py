"""The control socket in the worker: one JSON line in, one JSON line out, as part of the worker's own loop.

The listening socket is the supervisor's. A client that sends nothing holds nobody up: what it says is read as
it comes, and it is dropped after a while.
"""

from __future__ import annotations

import json
import select
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

__all__ = ["ControlSocket"]

_CLIENTS = 16
_PATIENCE = 10.0
_SEND_SECONDS = 1.0
_MOST_BYTES = 1 << 20
_CREDENTIALS = struct.Struct("3i")
_SO_PEERGROUPS = 59


@dataclass
class _Client:
    socket: socket.socket
    uid: int
    allowed: bool
    dropped_at: float
    said: bytearray = field(default_factory=bytearray)


class ControlSocket:
    """Clients of the listening socket `fd`. `answer(request, uid)` and `refusal(uid)` make answers."""

    def __init__(
        self,
        fd: int,
        gid: int | None,
        poll: select.poll,
        answer: Callable[[Any, int], dict[str, Any]],
        refusal: Callable[[int], dict[str, Any]],
    ) -> None:
        self._listener = socket.socket(fileno=fd)
        self._listener.setblocking(False)
        self._gid, self._poll, self._answer, self._refusal = gid, poll, answer, refusal
        self._clients: dict[int, _Client] = {}
        poll.register(self._listener, select.POLLIN)

    def owns(self, fd: int) -> bool:
        """Whether `fd` is the listening socket or a client's."""
        return fd == self._listener.fileno() or fd in self._clients

    @property
    def deadline(self) -> float:
        """When the next client is dropped (monotonic); infinite where there is none."""
        return min((one.dropped_at for one in self._clients.values()), default=float("inf"))

    def ready(self, fd: int) -> None:
        """Something can be read from `fd`."""
        if fd == self._listener.fileno():
            self._accept()
        else:
            self._read(self._clients[fd])

    def drop_idle(self) -> None:
        """Drop the clients that had their time."""
        now = time.monotonic()
        for one in [one for one in self._clients.values() if now >= one.dropped_at]:
            self._drop(one)

    def _accept(self) -> None:
        try:
            made, _ = self._listener.accept()
        except OSError:
            return  # it has gone again
        made.setblocking(False)
        uid, allowed = self._who(made)
        if len(self._clients) >= _CLIENTS:
            self._drop(min(self._clients.values(), key=lambda one: one.dropped_at))
        client = _Client(made, uid, allowed, time.monotonic() + _PATIENCE)
        self._clients[made.fileno()] = client
        self._poll.register(made, select.POLLIN)

    def _who(self, client: socket.socket) -> tuple[int, bool]:
        """The user at the other end, as the kernel tells it, and whether it may ask."""
        raw = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        _, uid, gid = _CREDENTIALS.unpack(raw)
        if uid == 0:
            return uid, True
        if self._gid is None:
            return uid, False
        try:
            groups = client.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 1024)
        except OSError:
            groups = b""  # more than 256 of them: only the first counts
        there = struct.unpack(f"{len(groups) // 4}I", groups)
        return uid, gid == self._gid or self._gid in there

    def _read(self, client: _Client) -> None:
        try:
            part = client.socket.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            part = b""
        client.said += part
        if b"\n" in client.said:
            self._reply(client)
        elif not part or len(client.said) > _MOST_BYTES:
            self._drop(client)

    def _reply(self, client: _Client) -> None:
        if client.allowed:
            try:
                request = json.loads(client.said.partition(b"\n")[0])
            except (ValueError, RecursionError):
                request = None
            made = self._answer(request, client.uid)
        else:
            made = self._refusal(client.uid)
        try:
            client.socket.settimeout(_SEND_SECONDS)
            client.socket.sendall(json.dumps(made).encode() + b"\n")
        except OSError:
            pass  # it did not wait for the answer
        self._drop(client)

    def _drop(self, client: _Client) -> None:
        self._poll.unregister(client.socket)
        del self._clients[client.socket.fileno()]
        client.socket.close()

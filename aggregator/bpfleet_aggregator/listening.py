"""Listening sockets that several processes share: bound once, as root where a port needs that."""

from __future__ import annotations

import errno
import os
import re
import socket
import stat
import time
from collections.abc import Sequence
from contextlib import suppress

from bpfleet.errors import ConfigError

__all__ = ["Listening"]

_BACKLOG = 4096
_TCP = re.compile(r"tcp://\[?(?P<host>[^\]]+?)\]?:(?P<port>\d+|\*)\Z")
_LEFT_BEHIND = 1.0
"""Seconds in which the shards of an aggregator that was killed have ended."""


class Listening:
    """One socket on each TCP endpoint for each of `shards`: the kernel spreads connections over them."""

    def __init__(self, shards: int) -> None:
        self.ports: list[list[socket.socket]] = [[] for _ in range(shards)]
        """TCP sockets, by shard."""
        self.paths: dict[str, socket.socket] = {}
        """Unix sockets, by endpoint; connections to such a one are not spread."""
        self.endpoints: list[str] = []

    def bind(self, endpoints: Sequence[str]) -> None:
        """Begin to listen; raises ConfigError. Connections wait until somebody accepts them."""
        for endpoint in endpoints:
            match = _TCP.match(endpoint)
            try:
                if match is None:
                    self._bind_path(endpoint)
                else:
                    self._bind_port(match["host"], match["port"])
            except OSError as error:
                raise ConfigError(
                    f"can't listen: {error.strerror}",
                    where=f"[aggregator] bind, {endpoint}",
                    remedy="is the address one of this host's, and the port free?",
                ) from None

    def close(self) -> None:
        """Listen no more."""
        for sockets in (*self.ports, self.paths.values()):
            for one in sockets:
                one.close()
        for path in (endpoint.removeprefix("ipc://") for endpoint in self.paths):
            if not path.startswith("@"):
                with suppress(OSError):
                    os.unlink(path)

    def _bind_port(self, host: str, port: str) -> None:
        name = "0.0.0.0" if host == "*" else host
        wanted = 0 if port == "*" else int(port)
        family, kind, _, _, address = socket.getaddrinfo(name, wanted, type=socket.SOCK_STREAM)[0]
        with _alone(family, kind, address) as first:
            address = first.getsockname()
        for sockets in self.ports:
            one = socket.socket(family, kind)
            sockets.append(one)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            one.bind(address)
            _listen(one)
        shown = f"[{address[0]!s}]" if family == socket.AF_INET6 else str(address[0])
        self.endpoints.append(f"tcp://{shown}:{address[1]}")

    def _bind_path(self, endpoint: str) -> None:
        path = endpoint.removeprefix("ipc://")
        if path == "*":
            raise OSError(errno.EINVAL, "with shards it needs a path")
        with suppress(FileNotFoundError):
            if stat.S_ISSOCK(os.stat(path).st_mode):
                os.unlink(path)  # an earlier aggregator's: ZeroMQ takes it over, too
        one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            one.bind("\0" + path[1:] if path.startswith("@") else path)
        except OSError:
            one.close()
            raise
        self.paths[endpoint] = one  # only now is what lies there ours to remove
        _listen(one)
        self.endpoints.append(endpoint)


def _listen(one: socket.socket) -> None:
    # Else who accepts waits where a connection has gone meanwhile.
    one.setblocking(False)
    one.listen(_BACKLOG)


def _alone(family: int, kind: int, address: tuple[object, ...]) -> socket.socket:
    """A socket on that address; raises OSError where somebody else has it.

    With SO_REUSEPORT alone another aggregator that is there would have a part of the agents. The shards of
    one that was killed end with it, but not at the same moment.
    """
    deadline = time.monotonic() + _LEFT_BEHIND
    while True:
        one = socket.socket(family, kind)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind(address)
            if address[1]:
                one.listen(1)
            return one
        except OSError as error:
            one.close()
            if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                raise
        time.sleep(0.05)

"""The control socket: bound here, as root, where only root (and a group) can reach it; the worker answers.

It belongs to the supervisor, so that it outlives a worker: who asks meanwhile waits for the next one.
"""

from __future__ import annotations

import errno
import grp
import os
import socket
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from bpfleet.errors import ConfigError

__all__ = ["ControlSocket"]

_BACKLOG = 16


class ControlSocket:
    """The listening socket at `path`; `listener` is None where there is none, and `say` was told why."""

    def __init__(self, path: str, group: str | None, say: Callable[[str], None]) -> None:
        self._path = Path(path)
        self.gid = _gid(group)
        self.listener: socket.socket | None = None
        self._inode = 0
        if not path:
            return
        try:
            self._path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            self._make_room()
            self.listener = self._bound()
        except OSError as error:
            reason = error.strerror or str(error)
            if error.errno == errno.EADDRINUSE:
                reason = "another agent answers there"
            say(
                f"there is no control socket at {path}: {reason}\n"
                '  remedy: [agent] control names another place, or none with ""'
            )

    def close(self) -> None:
        """Take the socket away, where it is still ours."""
        if self.listener is None:
            return
        self.listener.close()
        with suppress(OSError):
            if self._path.stat().st_ino == self._inode:
                self._path.unlink()

    def _make_room(self) -> None:
        """A socket that nobody answers at was left by an agent that was killed."""
        try:
            status = self._path.lstat()
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(status.st_mode):
            raise OSError(errno.EEXIST, "there is something else of that name")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as there:
            there.setblocking(False)
            try:
                there.connect(str(self._path))
            except ConnectionRefusedError:
                self._path.unlink()
                return
            except BlockingIOError:
                pass  # its backlog is full
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))

    def _bound(self) -> socket.socket:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        before = os.umask(0o177)
        try:
            made.bind(str(self._path))
            if self.gid is not None:
                os.chown(self._path, -1, self.gid)
                self._path.chmod(0o660)
            made.listen(_BACKLOG)
            self._inode = self._path.stat().st_ino
        except BaseException:
            made.close()
            raise
        finally:
            os.umask(before)
        return made


def _gid(group: str | None) -> int | None:
    if group is None:
        return None
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise ConfigError(
            f"there is no group {group!r} on this host",
            where="[agent] control_group",
            remedy=f"groupadd --system {group}, or name a group that exists",
        ) from None

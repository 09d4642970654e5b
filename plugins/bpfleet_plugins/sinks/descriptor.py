"""Bytes to a descriptor that somebody else reads: a pipe, a terminal, a file."""

from __future__ import annotations

import os
import select
import stat
import time
from collections.abc import Callable

from bpfleet.errors import SinkError, SinkGone

__all__ = ["ReaderGone", "write_all"]

_LOOK_AROUND = 0.2
_PATIENCE_AT_THE_END = 1.0


class ReaderGone(SinkGone):
    """Raised when nobody can read any more what is written."""


def write_all(fd: int, data: bytes | memoryview, stopping: Callable[[], bool], *, where: str) -> None:
    """Write all of `data`, waiting for a slow reader as long as it takes.

    Raises ReaderGone where the reader has closed its end, SinkError where writing fails or, once `stopping`
    says so, where the reader takes nothing for a second.
    """
    # poll promises room for PIPE_BUF bytes, so a write of no more never blocks where nobody can interrupt it.
    piece = len(data) if _is_regular(fd, where) else select.PIPE_BUF
    rest = memoryview(data)
    while rest:
        _await_room(fd, stopping, where)
        try:
            rest = rest[os.write(fd, rest[:piece]) :]
        except BrokenPipeError:
            raise _gone(where) from None
        except BlockingIOError:
            time.sleep(0.01)  # somebody else's write took the room
        except OSError as error:
            raise SinkError(f"can't be written: {error.strerror}", where=where) from None


def _await_room(fd: int, stopping: Callable[[], bool], where: str) -> None:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    refused_since = time.monotonic()
    while True:
        events = poll.poll(_LOOK_AROUND * 1000)
        if events:
            if events[0][1] & (select.POLLERR | select.POLLNVAL):
                raise _gone(where)
            return
        if not stopping():
            refused_since = time.monotonic()
        elif time.monotonic() - refused_since > _PATIENCE_AT_THE_END:
            raise SinkError("the reader takes nothing and the agent is stopping", where=where)


def _is_regular(fd: int, where: str) -> bool:
    try:
        return stat.S_ISREG(os.fstat(fd).st_mode)
    except OSError as error:
        raise SinkError(f"can't be written: {error.strerror}", where=where) from None


def _gone(where: str) -> ReaderGone:
    return ReaderGone(
        "the reader has gone", where=where, remedy="start the agent again, with a reader that stays"
    )

"""Signals as bytes that a selector sees."""

from __future__ import annotations

import signal
import socket

__all__ = ["signals"]


def signals() -> socket.socket:
    """A socket that each signal's number is written to."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, frame: None)
    signal.set_wakeup_fd(theirs.detach())
    return ours

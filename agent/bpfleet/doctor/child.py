"""Processes that end: what is tried is tried in one, so that nothing stays mounted, loaded or attached."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any

from bpfleet.supervisor.launch import ending
from bpfleet.supervisor.privileges import die_with_parent

__all__ = ["Child", "ChildFailed", "in_child", "in_words", "run_command"]

_VALUE, _RAISED, _END = "value", "raised", "end"


class ChildFailed(Exception):
    """Raised when a child crashed, hung, or raised; the text says which, in half a sentence."""


class Child:
    """A forked process that works out values, by way of JSON, and ends."""

    def __init__(self, function: Callable[[], Iterable[Any]], *, seconds: float) -> None:
        self._deadline = time.monotonic() + seconds
        self._seconds = seconds
        self._status = 0
        self._pipe, write = os.pipe()
        parent = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            _be_the_child(function, write, parent, seconds)
        os.close(write)

    def results(self) -> Iterator[Any]:
        """Each value as it comes; ChildFailed after those that came before it crashed, hung or raised.

        The child is gone afterwards.
        """
        try:
            for line in self._lines():
                kind, value = json.loads(line)
                if kind == _RAISED:
                    raise ChildFailed(value)
                if kind == _END:
                    return
                yield value
        finally:
            status = self.end()
        how = ending(os.waitstatus_to_exitcode(status))
        raise ChildFailed(f"the process that tried it ended ({how})")

    def end(self) -> int:
        """Have it gone; a second call does nothing. Returns its wait status."""
        if self._pid:
            os.close(self._pipe)
            # Where it has become another user and we lack CAP_KILL, it ends by its own alarm.
            with suppress(PermissionError):
                os.kill(self._pid, signal.SIGKILL)
            _, self._status = os.waitpid(self._pid, 0)
            self._pid = 0
        return self._status

    def _lines(self) -> Iterator[bytes]:
        """Whole lines until it closes its end."""
        said = b""
        while True:
            patience = self._deadline - time.monotonic()
            if patience <= 0 or not select.select([self._pipe], [], [], patience)[0]:
                raise ChildFailed(f"the process that tried it took longer than {self._seconds:g} s")
            part = os.read(self._pipe, 65536)
            if not part:
                return
            *lines, said = (said + part).split(b"\n")
            yield from lines


def in_child(function: Callable[[], Any], *, seconds: float = 30.0) -> Any:
    """What `function` returns (something that JSON can say) in a process of its own; raises ChildFailed."""
    (value,) = Child(lambda: [function()], seconds=seconds).results()
    return value


def run_command(command: Sequence[str], *, seconds: float = 30.0) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, both its outputs kept; it ends with us. OSError or ChildFailed."""
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
            cwd="/",
            preexec_fn=lambda: die_with_parent(signal.SIGKILL),
        )
    except subprocess.TimeoutExpired:
        raise ChildFailed(f"{command[0]} took longer than {seconds:g} s") from None


def _be_the_child(function: Callable[[], Iterable[Any]], write: int, parent: int, seconds: float) -> None:
    """Never returns: whatever happens, the parent's stack is not unwound here."""
    try:
        die_with_parent(signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        signal.setitimer(signal.ITIMER_REAL, seconds + 1)
        # What libraries print is not for the report, and a Ctrl-C is the parent's to handle.
        nowhere = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(nowhere, fd)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with os.fdopen(write, "w", buffering=1) as pipe:
            try:
                for value in function():
                    pipe.write(json.dumps((_VALUE, value)) + "\n")
                last = (_END, "")
            except Exception as error:
                last = (_RAISED, in_words(error))
            pipe.write(json.dumps(last) + "\n")
    finally:
        os._exit(0)


def in_words(error: BaseException) -> str:
    """A defect in one line: where it was raised, its type, what it says."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f"{os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}: " if trace else ""
    return f"{place}{type(error).__name__}: {' '.join(str(error).split())}"

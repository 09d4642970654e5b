"""Run a piece of a test in a process of its own, as the loader is: bcc and mounts change their process."""

from __future__ import annotations

import os
import pickle
import signal
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from bpfleet.errors import BpfleetError
from bpfleet.loader.tracing_mounts import mount_privately

T = TypeVar("T")


def apart(function: Callable[[], T], *, mounts: bool = True) -> T:
    """What `function` returns in a forked child; a BpfleetError raised there is raised here.

    A child that takes longer than two minutes is ended and fails the test.
    """
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        _child(function, mounts, write)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        raw = pipe.read()
    _, status = os.waitpid(pid, 0)
    assert raw, f"the child died: status {status}"
    kind, what = pickle.loads(raw)
    if kind == "error":
        raise BpfleetError.from_plain(what)
    assert kind == "value", what
    result: T = what
    return result


def _child(function: Callable[[], Any], mounts: bool, write: int) -> None:
    signal.alarm(120)
    try:
        if mounts:
            mount_privately()
        said = ("value", function())
    except BpfleetError as error:
        said = ("error", error.to_plain())
    except BaseException:
        said = ("traceback", traceback.format_exc())
    with os.fdopen(write, "wb") as pipe:
        pipe.write(pickle.dumps(said))
    os._exit(0)


def source_file(folder: Path, text: str, name: str = "made.bpf.c") -> Path:
    """A source in `folder`."""
    path = folder / name
    path.write_text(text)
    return path

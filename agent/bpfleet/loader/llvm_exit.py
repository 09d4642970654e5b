"""Outlive LLVM: on some errors, such as too large a stack, it prints a line and calls exit(1)."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import TypeVar

__all__ = ["LlvmExit", "outlived"]

T = TypeVar("T")
_HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class LlvmExit(Exception):
    """LLVM ended the call by calling exit."""


def outlived(call: Callable[[], T]) -> tuple[T | None, BaseException | None]:
    """What `call` returned, or what it raised; `LlvmExit` where it would have ended the process.

    `call` runs in a thread of its own. C's exit runs the handlers registered for it before anything else
    goes, in the thread that called it; ours never returns, so that thread stays there and the process
    lives on. After a `LlvmExit` end the process with `os._exit`: C's exit has begun and can't be begun again.
    """
    libc = ctypes.CDLL(None)
    done = threading.Event()
    results: list[T] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            results.append(call())
        # bcc raises bare Exception, and calls sys.exit where it does not understand a type.
        except (Exception, SystemExit) as error:
            failures.append(error)
        done.set()

    thread = threading.Thread(target=run, name="llvm", daemon=True)

    def exiting(_: int) -> None:
        if threading.current_thread() is thread and not done.is_set():
            failures.append(LlvmExit("LLVM called exit"))
            done.set()
            threading.Event().wait()

    handler = _HANDLER(exiting)
    # The address of any object of ours serves as the handle by which the handler is taken back.
    handle = ctypes.c_char()
    libc.__cxa_atexit(handler, None, ctypes.byref(handle))
    thread.start()
    done.wait()
    if failures and isinstance(failures[0], LlvmExit):
        _never_freed.append(handler)
    else:
        thread.join()
        libc.__cxa_finalize(ctypes.byref(handle))
    return (results[0] if results else None), (failures[0] if failures else None)


_never_freed: list[object] = []
"""Handlers that the stuck thread still stands in."""

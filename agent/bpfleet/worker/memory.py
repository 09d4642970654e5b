"""Memory that Python has freed and the C library still keeps."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

__all__ = ["give_back"]


def give_back() -> None:
    """Give it back to the kernel: what loading and the first reads have taken is not needed again.

    A fraction of a millisecond where there is little. Of C libraries other than glibc it does nothing.
    """
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@cache
def _malloc_trim() -> Any:
    return getattr(ctypes.CDLL(None), "malloc_trim", None)

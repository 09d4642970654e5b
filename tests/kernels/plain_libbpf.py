"""Nothing but libbpf: opens, loads and attaches each object named, and prints what came of it as JSON lines.

Run as a program of its own: `python plain_libbpf.py FILE.bpf.o …`. What is attached goes when it ends.
"""

from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Iterator

_LIBBPF = ctypes.CDLL("libbpf.so.1")
_QUIET = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)()


def _call(name: str, result: object, *arguments: object) -> object:
    function = getattr(_LIBBPF, name)
    function.restype = result
    return function(*arguments)


def _each(what: str, opened: ctypes.c_void_p) -> Iterator[ctypes.c_void_p]:
    handle = None
    while handle := _call(f"bpf_object__next_{what}", ctypes.c_void_p, opened, ctypes.c_void_p(handle)):
        yield ctypes.c_void_p(handle)  # type: ignore[arg-type]


def _text(name: str, handle: ctypes.c_void_p) -> str:
    text = _call(name, ctypes.c_char_p, handle)
    assert isinstance(text, bytes)
    return text.decode()


def brought_in(path: str) -> dict[str, object]:
    """What libbpf makes of one object: whether it loads, its programs that attach, its maps by kind."""
    opened = ctypes.c_void_p(_call("bpf_object__open_file", ctypes.c_void_p, path.encode(), None))  # type: ignore[arg-type]
    if not opened:
        return {"loads": False}
    try:
        if _call("bpf_object__load", ctypes.c_int, opened):
            return {"loads": False}
        attached = []
        for one in _each("program", opened):
            link = _call("bpf_program__attach", ctypes.c_void_p, one)
            if link:
                attached.append(_text("bpf_program__name", one))
                _call("bpf_link__destroy", ctypes.c_int, ctypes.c_void_p(link))  # type: ignore[arg-type]
        maps = {
            _text("bpf_map__name", one): _call("bpf_map__type", ctypes.c_int, one)
            for one in _each("map", opened)
            if not _call("bpf_map__is_internal", ctypes.c_bool, one)
        }
        return {"loads": True, "attached": sorted(attached), "maps": maps}
    finally:
        _call("bpf_object__close", None, opened)


if __name__ == "__main__":
    _call("libbpf_set_print", ctypes.c_void_p, _QUIET)
    for name in sys.argv[1:]:
        print(json.dumps({"path": name, **brought_in(name)}), flush=True)

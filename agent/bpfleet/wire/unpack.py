"""Bytes to plain values: a msgpack reader for input that is not trusted.

msgpack's own unpacker makes containers before anyone can object, and copies every `bin`. This one checks
each size before anything of that size is made, spends a budget of values, and gives each `bin` as a
read-only view on the frame. A frame has some tens of values, whatever its columns weigh.
"""

from __future__ import annotations

import math
import struct
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bpfleet.errors import WireError

if TYPE_CHECKING:
    import zstandard

__all__ = ["ZSTD_MAGIC", "Limits", "plain_bytes", "unpack"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What a decoder accepts at most. The defaults are those that docs/wire.md promises to senders."""

    frame_bytes: int = 4 << 20
    """Of one frame, compressed or not, and of what it decompresses to."""
    text_bytes: int = 16 << 10
    """Of one text (an error with its log, say), in UTF-8."""
    items: int = 1024
    """Elements of one array, or entries of one map."""
    values: int = 1 << 16
    """In one frame: containers, their elements, the keys and values of maps."""
    depth: int = 16
    """Containers inside one another, the record included."""
    columns: int = 512
    element_bytes: int = 1 << 20
    """Of one row of one column."""
    schemas: int = 4096
    """Schemas that one decoder remembers; the one used longest ago is forgotten."""
    schema_bytes: int = 16 << 20
    """Memory that one decoder spends on schemas, in bytes; the same one is forgotten."""


ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"

_U8, _U16, _U32 = struct.Struct(">B"), struct.Struct(">H"), struct.Struct(">I")
_INTEGERS = {
    0xCC: _U8,
    0xCD: _U16,
    0xCE: _U32,
    0xCF: struct.Struct(">Q"),
    0xD0: struct.Struct(">b"),
    0xD1: struct.Struct(">h"),
    0xD2: struct.Struct(">i"),
    0xD3: struct.Struct(">q"),
}
_FLOATS = {0xCA: struct.Struct(">f"), 0xCB: struct.Struct(">d")}
_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}
_BINS = {0xC4: _U8, 0xC5: _U16, 0xC6: _U32}
_TEXTS = {0xD9: _U8, 0xDA: _U16, 0xDB: _U32}
_ARRAYS = {0xDC: _U16, 0xDD: _U32}
_MAPS = {0xDE: _U16, 0xDF: _U32}


def plain_bytes(data: bytes | bytearray | memoryview, limits: Limits, where: str) -> memoryview:
    """`data`, decompressed where it is a zstd frame; raises WireError beyond `limits`."""
    view = memoryview(data).cast("B").toreadonly() if len(data) else memoryview(b"")
    if len(view) > limits.frame_bytes:
        raise WireError(f"the frame has {len(view)} bytes, the limit is {limits.frame_bytes}", where=where)
    if view[:4] != ZSTD_MAGIC:
        return view
    import zstandard  # only where a frame needs it

    try:
        size = zstandard.frame_content_size(view)
        if not 0 < size <= limits.frame_bytes:
            raise WireError(
                f"a zstd frame must say its content size, from 1 to {limits.frame_bytes} bytes", where=where
            )
        # Into a buffer of the size that was just checked; content of another size is an error.
        content: bytes = _decompressor().decompress(view, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise WireError(f"not a zstd frame: {error}", where=where) from None
    return memoryview(content)


_local = threading.local()


def _decompressor() -> zstandard.ZstdDecompressor:
    """This thread's: making one costs more than a small frame, and it serves one thread at a time."""
    found: zstandard.ZstdDecompressor | None = getattr(_local, "decompressor", None)
    if found is None:
        import zstandard

        found = _local.decompressor = zstandard.ZstdDecompressor()
    return found


def unpack(view: memoryview, limits: Limits, where: str) -> dict[str, Any]:
    """The map that `view` is. Texts are str, bins are views on `view`; raises WireError for anything else."""
    reader = _Reader(view, limits, where)
    try:
        record = reader.value(0)
    except (IndexError, struct.error):
        raise reader.wrong("the frame ends in the middle of a value") from None
    except RecursionError:
        raise reader.wrong("arrays and maps inside one another too deep for this machine") from None
    except UnicodeDecodeError as error:
        raise reader.wrong(f"a text is not UTF-8: {error.reason}") from None
    if type(record) is not dict:
        raise WireError("a record is a map, this is something else", where=where)
    if reader.at != len(view):
        raise reader.wrong(f"{len(view) - reader.at} bytes follow the record")
    return record


class _Reader:
    """A place in a frame, and how many values may still be read."""

    __slots__ = ("at", "end", "left", "limits", "view", "where")

    def __init__(self, view: memoryview, limits: Limits, where: str) -> None:
        self.view, self.end, self.at = view, len(view), 0
        self.limits, self.left, self.where = limits, limits.values, where

    def wrong(self, what: str) -> WireError:
        return WireError(what, where=f"{self.where}, byte {self.at}")

    def value(self, depth: int) -> Any:
        """The value here; IndexError or struct.error where the frame ends, UnicodeDecodeError for no text."""
        self.left -= 1
        if self.left < 0:
            raise self.wrong(f"more than {self.limits.values} values in one frame")
        first = self.view[self.at]
        self.at += 1
        # Roughly the commonest first: a frame's values are read one by one, in Python.
        if first < 0x80:
            return first
        if 0xA0 <= first < 0xC0:
            return self.text(first & 0x1F)
        if first in _INTEGERS:
            return self.number(_INTEGERS[first])
        if first in _BINS:
            return self.taken(self.number(_BINS[first]))
        if first in _TEXTS:
            return self.text(self.number(_TEXTS[first]))
        if first >= 0xE0:
            return first - 0x100
        if first < 0x90:
            return self.mapping(first & 0x0F, depth)
        if first < 0xA0:
            return self.array(first & 0x0F, depth)
        if first in _CONSTANTS:
            return _CONSTANTS[first]
        if first in _FLOATS:
            return self.finite(self.number(_FLOATS[first]))
        if first in _MAPS:
            return self.mapping(self.number(_MAPS[first]), depth)
        if first in _ARRAYS:
            return self.array(self.number(_ARRAYS[first]), depth)
        raise self.wrong(f"type byte 0x{first:02x} (an extension, or none) is not part of wire format 1")

    def number(self, form: struct.Struct) -> Any:
        number = form.unpack_from(self.view, self.at)[0]
        self.at += form.size
        return number

    def taken(self, size: int) -> memoryview:
        if size > self.end - self.at:
            raise self.wrong(f"the frame ends before the {size} bytes of a value")
        start, self.at = self.at, self.at + size
        return self.view[start : self.at]

    def text(self, size: int) -> str:
        if size > self.limits.text_bytes:
            raise self.wrong(f"a text of {size} bytes, the limit is {self.limits.text_bytes}")
        return str(self.taken(size), "utf-8")

    def finite(self, number: float) -> float:
        if not math.isfinite(number):
            raise self.wrong("a number that is not finite")
        return number

    def array(self, items: int, depth: int) -> list[Any]:
        self.enter(items, depth)
        return [self.value(depth + 1) for _ in range(items)]

    def mapping(self, items: int, depth: int) -> dict[str, Any]:
        self.enter(items, depth)
        found: dict[str, Any] = {}
        for _ in range(items):
            key = self.value(depth + 1)
            if type(key) is not str:
                raise self.wrong("a map's key is not text")
            if key in found:
                raise self.wrong(f"a map has the key {key[:40]!r} twice")
            found[key] = self.value(depth + 1)
        return found

    def enter(self, items: int, depth: int) -> None:
        if items > self.limits.items:
            raise self.wrong(f"an array or map of {items}, the limit is {self.limits.items}")
        if depth >= self.limits.depth:
            raise self.wrong(f"more than {self.limits.depth} arrays and maps inside one another")

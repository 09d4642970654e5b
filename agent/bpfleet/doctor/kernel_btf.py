"""Ids of a few types in the running kernel's BTF, found in one pass over 5 MB; nothing else is read of it."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

from bpfleet.btf_types import Kind
from bpfleet.loader.btf_dump import KERNEL_BTF

__all__ = ["ELSEWHERE", "KERNEL_BTF", "type_ids"]

ELSEWHERE = ("/boot/vmlinux-{0}", "/lib/modules/{0}/vmlinux-{0}", "/lib/modules/{0}/build/vmlinux")
"""Where libbpf looks when sysfs has none; `{0}` is the release."""

_HEADER = struct.Struct("=HBBIIIII")
_TYPE = struct.Struct("=III")
_MAGIC = 0xEB9F


def type_ids(wanted: Mapping[str, Kind], path: Path = KERNEL_BTF) -> dict[str, int]:
    """Ids of those types that the kernel has, by name; OSError or ValueError where its BTF is no BTF."""
    data = path.read_bytes()
    if len(data) < _HEADER.size:
        raise ValueError("it is shorter than a header")
    magic, _, _, header, types_at, types_size, names_at, names_size = _HEADER.unpack_from(data)
    if magic != _MAGIC:
        raise ValueError(f"its magic is {magic:#x}")
    names = header + names_at
    looked_for = {}
    for name in wanted:
        at = data.find(b"\0" + name.encode() + b"\0", names, names + names_size)
        if at >= 0:
            looked_for[at + 1 - names] = name
    found: dict[str, int] = {}
    at, end, number = header + types_at, header + types_at + types_size, 0
    unpack, sizes = _TYPE.unpack_from, _BYTES_MORE
    while at < end and len(found) < len(looked_for):
        number += 1
        name_offset, info, _ = unpack(data, at)
        kind_number = info >> 24 & 0x1F
        if name_offset in looked_for:
            name = looked_for[name_offset]
            if kind_number == wanted[name]:
                found[name] = number
        once, each = sizes[kind_number]
        at += 12 + once + each * (info & 0xFFFF)
    return found


# Documentation/bpf/btf.rst: what follows the 12 bytes of a type, (once, for each of its vlen).
_MORE = {
    Kind.INT: (4, 0),
    Kind.ARRAY: (12, 0),
    Kind.STRUCT: (0, 12),
    Kind.UNION: (0, 12),
    Kind.ENUM: (0, 8),
    Kind.FUNC_PROTO: (0, 8),
    Kind.VAR: (4, 0),
    Kind.DATASEC: (0, 12),
    Kind.DECL_TAG: (4, 0),
    Kind.ENUM64: (0, 12),
}
_BYTES_MORE = [_MORE.get(Kind(number), (0, 0)) if number in set(Kind) else (0, 0) for number in range(32)]

"""Entries of a map, one at a time, as bytes."""

from __future__ import annotations

import ctypes
import errno

from bpfleet import kernel

__all__ = ["delete_entry", "entry", "keys", "put_entry"]


def put_entry(fd: int, info: kernel.MapInfo, key: bytes, value: bytes) -> None:
    """Set a key's value, under its lock where it has one; in a per-CPU map that of every CPU."""
    if info.per_cpu:
        value = value.ljust(-(-info.value_size // 8) * 8, b"\0") * kernel.possible_cpus()
    flags = kernel.F_LOCK if kernel.is_locked(fd, info) else 0
    key_at, value_at = (ctypes.create_string_buffer(part, len(part)) for part in (key, value))
    kernel.update(fd, ctypes.addressof(key_at), ctypes.addressof(value_at), flags)


def entry(fd: int, info: kernel.MapInfo, key: bytes) -> bytes | None:
    """A key's value, in a per-CPU map the first CPU's; None where there is none."""
    size = -(-info.value_size // 8) * 8 * kernel.possible_cpus() if info.per_cpu else info.value_size
    key_at, value = ctypes.create_string_buffer(key, len(key)), ctypes.create_string_buffer(size)
    flags = kernel.F_LOCK if kernel.is_locked(fd, info) else 0
    there = kernel.lookup(fd, ctypes.addressof(key_at), ctypes.addressof(value), flags)
    return value.raw[: info.value_size] if there else None


def delete_entry(fd: int, key: bytes) -> None:
    """Delete a key that may not be there."""
    held = ctypes.create_string_buffer(key, len(key))
    try:
        kernel.delete(fd, ctypes.addressof(held))
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise


def keys(fd: int, info: kernel.MapInfo, most: int) -> list[bytes]:
    """Up to `most` keys, in the kernel's order."""
    found: list[bytes] = []
    at, following = (ctypes.create_string_buffer(info.key_size) for _ in range(2))
    while len(found) < most and kernel.next_key(
        fd, ctypes.addressof(at) if found else 0, ctypes.addressof(following)
    ):
        found.append(following.raw)
        at.raw = following.raw
    return found

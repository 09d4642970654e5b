"""key: BPF_MAP_GET_NEXT_KEY and a lookup per entry, for kernels or maps that have nothing better.

When the key that we stand on is deleted the kernel starts over from the first. What was read is
remembered, so nothing is repeated; and we go on from the latest key that is still there, so that no
entry that stays is missed."""

from __future__ import annotations

import numpy as np

from bpfleet import kernel
from bpfleet.layout import Layout
from bpfleet.reading.columns import Bytes, Read, views
from bpfleet.reading.folding import fold

__all__ = ["ByKey"]


class ByKey:
    """Reads a map one key at a time; the only method that does Python work per row."""

    method = "key"

    def __init__(self, fd: int, info: kernel.MapInfo, key: Layout, value: Layout, *, flags: int = 0) -> None:
        self._fd, self._info, self._key, self._value, self._flags = fd, info, key, value, flags
        self._cpus = kernel.possible_cpus() if info.per_cpu else 1
        self._cpu_stride = -(-info.value_size // 8) * 8 if info.per_cpu else info.value_size

    def read(self) -> Read:
        """All entries; not complete where keys came and went so fast that no end was in sight."""
        found: dict[bytes, bytes] = {}
        order: list[bytes] = []
        here = np.zeros(self._info.key_size, np.uint8)
        following = np.zeros(self._info.key_size, np.uint8)
        value = np.zeros(self._cpu_stride * self._cpus, np.uint8)
        resumed = b""
        more = kernel.next_key(self._fd, 0, following.ctypes.data)
        for _ in range(8 * self._info.max_entries + 1024):
            if not more:
                break
            here, following = following, here
            key = here.tobytes()
            if key not in found:
                if kernel.lookup(self._fd, here.ctypes.data, value.ctypes.data, self._flags):
                    found[key] = value.tobytes()
                    order.append(key)
            else:
                latest = self._latest_there(order, value)
                # Twice from the same key leads nowhere new: then pass over what is known.
                if latest not in (b"", resumed):
                    here[:] = np.frombuffer(latest, np.uint8)
                resumed = latest
            more = kernel.next_key(self._fd, here.ctypes.data, following.ctypes.data)
        rows = len(found)
        keys = np.frombuffer(b"".join(found), np.uint8)
        values = np.frombuffer(b"".join(found.values()), np.uint8)
        stride = self._cpu_stride
        if self._cpus > 1:
            values = fold(values.reshape(rows, self._cpus, stride), self._value)
            stride = values.shape[1]
            values = values.reshape(-1)
        columns = [
            *views(keys, 0, self._info.key_size, rows, self._key),
            *views(values, 0, stride, rows, self._value),
        ]
        return Read(self.method, rows, rows, columns, complete=not more)

    def _latest_there(self, order: list[bytes], value: Bytes) -> bytes:
        """Of the keys read, the latest that the map still has; empty where none of the last
        thousand is there."""
        for key in reversed(order[-1000:]):
            probe = np.frombuffer(key, np.uint8)
            if kernel.lookup(self._fd, probe.ctypes.data, value.ctypes.data):
                return key
        return b""

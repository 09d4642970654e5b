"""A child process that drains a ring buffer with a Python callback for each event.

    python -m bench.python_ring FD bcc|libbpf

`bcc` as bcc does it (`open_ring_buffer`, `ring_buffer_consume`, `table.event(data)`); `libbpf` by ctypes over
`ring_buffer__consume`. Commands and answers as in peers/ring.c.
"""

from __future__ import annotations

import ctypes
import gc
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_SOURCE = """
struct event_t { u64 number; u64 twice; u32 cpu; char word[12]; };
BPF_RINGBUF_OUTPUT(events, 1);
int never(struct pt_regs *ctx)
{
    struct event_t event = {};
    events.ringbuf_output(&event, sizeof(event), 0);
    return 0;
}
"""


class _Event(ctypes.Structure):
    _fields_ = (
        ("number", ctypes.c_uint64),
        ("twice", ctypes.c_uint64),
        ("cpu", ctypes.c_uint32),
        ("word", ctypes.c_char * 12),
    )


def _bcc(fd: int, numbers: list[int]) -> Callable[[], object]:
    from bpfleet.loader.bcc_compile import compile_source
    from bpfleet.protocol import Load

    request = Load(collector="bench", kind="bcc", source=str(Path(__file__).with_name("ring.c")))
    made: Any = compile_source(request, _SOURCE)
    table = made["events"]
    table.map_fd = fd

    def take(ctx: Any, data: Any, size: int) -> None:
        numbers.append(table.event(data).number)

    table.open_ring_buffer(take)
    consume: Callable[[], object] = made.ring_buffer_consume
    return consume


_kept: list[Any] = []


def _libbpf(fd: int, numbers: list[int]) -> Callable[[], object]:
    library = ctypes.CDLL("libbpf.so.1")
    callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
    library.ring_buffer__new.restype = ctypes.c_void_p
    library.ring_buffer__new.argtypes = [ctypes.c_int, callback, ctypes.c_void_p, ctypes.c_void_p]
    library.ring_buffer__consume.argtypes = [ctypes.c_void_p]

    def take(ctx: Any, data: int, size: int) -> int:
        numbers.append(_Event.from_address(data).number)
        return 0

    _kept.append(callback(take))
    ring = library.ring_buffer__new(fd, _kept[0], None, None)
    return lambda: library.ring_buffer__consume(ring)


def main() -> int:
    fd, which = int(sys.argv[1]), sys.argv[2]
    numbers: list[int] = []
    consume = {"bcc": _bcc, "libbpf": _libbpf}[which](fd, numbers)
    for line in sys.stdin:
        numbers.clear()
        gc.collect()
        began = time.perf_counter_ns()
        consume()
        took = time.perf_counter_ns() - began
        if line.startswith("time"):
            print(took, len(numbers), flush=True)
        else:
            print(len(numbers), sum(numbers), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

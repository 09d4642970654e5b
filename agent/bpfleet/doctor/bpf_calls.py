"""Tiny programs through bpf(2) and perf_event_open(2): loaded, attached, and seen to count an event.

No libbpf, which may be what is missing. Layouts and numbers are from the kernel's uapi headers
`linux/bpf.h` and `linux/perf_event.h`. Every fd is closed when the process ends, and detaches what it held.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import struct

from bpfleet import kernel
from bpfleet.kernel import bpf_call

__all__ = ["Counter", "attach_to_event", "load", "perf_event", "raw_open", "run_iterator", "watch_functions"]

_PROG_LOAD, _RAW_TRACEPOINT_OPEN, _LINK_CREATE, _ITER_CREATE = 5, 17, 28, 33
_TRACE_ITER, _KPROBE_MULTI = 28, 42
_NR_PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241, "riscv64": 241, "ppc64le": 319, "s390x": 331}
_IOC_SET_BPF, _IOC_ENABLE = 0x40042408, 0x2400
_CLOSE_ON_EXEC = 8
_ARRAY = 2


class Counter:
    """An array map of one u64 that programs made by `load` count up."""

    def __init__(self) -> None:
        self.fd = kernel.create_map(_ARRAY, 4, 8, 1)

    @property
    def events(self) -> int:
        """How often a program of this counter has run."""
        key, value = ctypes.c_uint32(0), ctypes.c_uint64()
        kernel.lookup(self.fd, ctypes.addressof(key), ctypes.addressof(value))
        return value.value


def load(kind: int, counter: Counter, *, expected: int = 0, btf_id: int = 0, flags: int = 0) -> int:
    """Load a program of `enum bpf_prog_type` `kind` that counts and returns 0; gives its fd, or OSError."""
    instruction = struct.Struct("=BBhi")
    code = b"".join(
        instruction.pack(*one)
        for one in (
            (0x18, 0x21, 0, counter.fd),  # r1 = address of the map's value
            (0, 0, 0, 0),
            (0xB7, 0x02, 0, 1),  # r2 = 1
            (0xDB, 0x21, 0, 0),  # lock *(u64 *)r1 += r2
            (0xB7, 0x00, 0, 0),  # r0 = 0
            (0x95, 0x00, 0, 0),
        )
    )
    instructions, license = ctypes.create_string_buffer(code, len(code)), ctypes.create_string_buffer(b"GPL")
    attributes = struct.pack(
        "=IIQQ20xI20xI36xI8x",
        *(kind, len(code) // 8, ctypes.addressof(instructions), ctypes.addressof(license)),
        *(flags, expected, btf_id),
    )
    return _call(_PROG_LOAD, attributes)


def raw_open(program: int, name: str | None = None) -> int:
    """Attach a raw tracepoint's program by `name`; one that was loaded for a BTF id needs none."""
    text = ctypes.create_string_buffer((name or "").encode())
    address = ctypes.addressof(text) if name else 0
    return _call(_RAW_TRACEPOINT_OPEN, struct.pack("=QI4x", address, program))


def watch_functions(program: int, name: str) -> int:
    """Attach by kprobe.multi to the kernel function `name`."""
    text = ctypes.create_string_buffer(name.encode())
    names = (ctypes.c_uint64 * 1)(ctypes.addressof(text))
    attributes = struct.pack("=IIIIIIQQQ", program, 0, _KPROBE_MULTI, 0, 0, 1, ctypes.addressof(names), 0, 0)
    return _call(_LINK_CREATE, attributes)


def run_iterator(program: int) -> None:
    """Attach an iterator's program and read it to its end."""
    link = _call(_LINK_CREATE, struct.pack("=IIII48x", program, 0, _TRACE_ITER, 0))
    iterator = _call(_ITER_CREATE, struct.pack("=II", link, 0))
    while os.read(iterator, 4096):
        pass


def perf_event(
    kind: int,
    config: int = 0,
    *,
    name: str | None = None,
    offset: int = 0,
    every: int = 0,
) -> int:
    """Open a perf event of this process; gives its fd, or OSError.

    `name` and `offset` are config1 (as text) and config2: a probe's function or file, and the place in it.
    `every` is a sampling period in the event's unit.
    """
    machine = platform.machine()
    if machine not in _NR_PERF_EVENT_OPEN:
        raise OSError(errno.ENOSYS, f"the number of perf_event_open(2) on {machine} is not known")
    text = ctypes.create_string_buffer((name or "").encode())
    attributes = struct.pack(
        "=IIQQQQQIIQQ",
        *(kind, 72, config, every, 0, 0, 0, 0, 0),
        *(ctypes.addressof(text) if name is not None else 0, offset),
    )
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    # pid 0, cpu -1: this process on every CPU; group -1: none.
    numbers = (_NR_PERF_EVENT_OPEN[machine], ctypes.addressof(buffer), 0, -1, -1, _CLOSE_ON_EXEC)
    libc = ctypes.CDLL(None, use_errno=True)
    fd: int = libc.syscall(*map(ctypes.c_long, numbers))
    if fd < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return fd


def attach_to_event(program: int, event: int) -> None:
    """Have the program run at the perf event."""
    fcntl.ioctl(event, _IOC_SET_BPF, program)
    fcntl.ioctl(event, _IOC_ENABLE, 0)


def _call(command: int, attributes: bytes) -> int:
    return bpf_call(command, ctypes.create_string_buffer(attributes, len(attributes)))

"""Sources for the tests of the bcc program kind, and what is done with them in a process of its own."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from apart import apart
from bpfleet import kernel
from bpfleet.errors import BpfleetError
from bpfleet.loader.bcc import BccObject, open_bcc
from bpfleet.protocol import Load

__all__ = ["CALLS", "UPROBE", "count_of", "map_fd", "opened", "refusal"]

CALLS = """\
BPF_HASH(calls, u32);

TRACEPOINT_PROBE(syscalls, sys_enter_sched_getscheduler)
{
	u32 pid = bpf_get_current_pid_tgid() >> 32;

	calls.increment(pid);
	return 0;
}
"""
"""Counts this system call by process: nothing else on the machine makes it as often as a test does."""


UPROBE = """\
#include <uapi/linux/ptrace.h>
BPF_HASH(calls, u32);
BPF_HASH(returns, u32);

int called(struct pt_regs *ctx)
{
	u32 pid = bpf_get_current_pid_tgid() >> 32;

	if (PT_REGS_PARM1(ctx) == 2)
		calls.increment(pid);
	return 0;
}

int returned(struct pt_regs *ctx)
{
	u32 pid = bpf_get_current_pid_tgid() >> 32;
	u64 priority = PT_REGS_RC(ctx);

	returns.update(&pid, &priority);
	return 0;
}
"""


def opened(source: Path, **more: Any) -> BccObject:
    """A bcc source, compiled; `more` are fields of the request."""
    return open_bcc(Load(collector="c", kind="bcc", source=str(source), **more), source.read_text())


def count_of(fd: int, key: int) -> int:
    """The u64 of a u32 key; 0 where the key is absent."""
    key_buffer, value = ctypes.c_uint32(key), ctypes.c_uint64()
    kernel.lookup(fd, ctypes.addressof(key_buffer), ctypes.addressof(value))
    return value.value


def map_fd(one: BccObject, name: str) -> int:
    """The fd of the map of that name."""
    return next(made.fd for made in one.maps() if made.name == name)


def refusal(
    source: Path, then: Callable[[BccObject], object] = lambda one: None, **more: Any
) -> BpfleetError:
    """The error of opening a source, or of what is done with it then."""
    with pytest.raises(BpfleetError) as error:
        apart(lambda: (then(opened(source, **more)), None)[1])
    return error.value

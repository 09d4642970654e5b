"""Tools of libbpf-tools beside the agent: started so that they find tracefs, watched until attached."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent_process import PATIENCE

_MOUNTED = 'mount -t tracefs none /sys/kernel/tracing 2>/dev/null; exec "$@"'


@contextmanager
def tool_running(*command: str) -> Iterator[subprocess.Popen[str]]:
    """The tool, with tracefs in a mount namespace of its own."""
    process = subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", _MOUNTED, "sh", *command], stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def interrupted(tool: subprocess.Popen[str]) -> str:
    """End it as Ctrl-C does; what it has printed."""
    tool.send_signal(signal.SIGINT)
    printed, _ = tool.communicate(timeout=30 * PATIENCE)
    return printed


def attached_programs(pid: int) -> int:
    """How many places the process has BPF programs in, as its file descriptors say."""
    found = 0
    for fd in Path(f"/proc/{pid}/fd").glob("*"):
        try:
            found += any(kind in os.readlink(fd) for kind in ("perf_event", "bpf_link", "bpf-raw-tracepoint"))
        except OSError:
            continue
    return found

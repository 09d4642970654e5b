"""The machine that a run was made on."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

__all__ = ["facts", "line"]


def facts() -> dict[str, Any]:
    """CPU model, kernel, CPUs, memory, Python and the load when asked."""
    return {
        "cpu": _field("/proc/cpuinfo", "model name") or platform.machine(),
        "cpus": os.cpu_count(),
        "memory_bytes": int(_field("/proc/meminfo", "MemTotal").split()[0]) * 1024,
        "kernel": platform.release(),
        "preemption": _preemption(),
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
    }


def line() -> str:
    """The facts in one line."""
    found = facts()
    return (
        f"{found['cpu']}, {found['cpus']} CPUs, {found['memory_bytes'] / (1 << 30):.0f} GiB; "
        f"Linux {found['kernel']} ({found['preemption']}); Python {found['python']}; "
        f"load {found['load']:.1f} at the start"
    )


def _field(path: str, name: str) -> str:
    for text in Path(path).read_text().splitlines():
        key, _, value = text.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""


def _preemption() -> str:
    return next((word for word in platform.version().split() if word.startswith("PREEMPT")), "no preemption")

"""A trace buffer of our own, so that no other reader of `trace_pipe` takes our lines, nor we theirs."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from bpfleet.errors import UnsupportedError
from bpfleet.loader.tracing_mounts import mount_privately

__all__ = ["TraceInstance"]

_TRACEFS = Path("/sys/kernel/tracing")
_EVENT = "events/bpf_trace/bpf_trace_printk"  # since Linux 5.9
_MINE = re.compile(r"bpfleet-(\d+)\Z")


class TraceInstance:
    """While entered, `pipe` gives a line for each bpf_printk on this host, from now on.

    tracefs is mounted for this process alone. Raises UnsupportedError where the kernel has none.
    """

    def __init__(self) -> None:
        self.pipe = -1
        self._place = _TRACEFS / "instances" / f"bpfleet-{os.getpid()}"

    def __enter__(self) -> TraceInstance:
        mount_privately()
        if not (_TRACEFS / _EVENT).is_dir():
            raise UnsupportedError(
                "tracefs has no event bpf_trace/bpf_trace_printk, so what programs print can't be seen",
                where=str(_TRACEFS),
                remedy="use a kernel with CONFIG_BPF_EVENTS, 5.9 or later; in a container mount tracefs",
            )
        _remove_left_over()
        try:
            self._place.mkdir()
            (self._place / _EVENT / "enable").write_text("1")
            self.pipe = os.open(self._place / "trace_pipe", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            self._remove()
            raise UnsupportedError(
                f"a trace buffer can't be made: {error.strerror}",
                where=str(self._place),
                remedy="run it as root with CAP_SYS_ADMIN; tracefs must not be read-only",
            ) from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    def _remove(self) -> None:
        if self.pipe >= 0:
            os.close(self.pipe)
        with suppress(OSError):
            self._place.rmdir()


def _remove_left_over() -> None:
    """Buffers of such commands that were killed."""
    for place in (_TRACEFS / "instances").iterdir():
        found = _MINE.match(place.name)
        if found and not Path("/proc", found.group(1)).exists():
            with suppress(OSError):
                place.rmdir()

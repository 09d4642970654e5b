"""pyflow: calls and time of the functions of chosen Python processes, by the interpreter's own probes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from bpfleet import Attach, Collector, CollectorSettings, Map, core, counter, hookimpl, label


class PyflowSettings(CollectorSettings, frozen=True, kw_only=True):
    """Settings of `[collectors.pyflow]`."""

    pids: Annotated[tuple[int, ...], Meta(min_length=1)]
    """The processes to look at, each by its id as the host sees it."""
    python: str = "/usr/bin/python3"
    """The interpreter's file, or the libpython that has its code, as these processes see it."""

    def __post_init__(self) -> None:
        for pid in self.pids:
            if pid < 1:
                raise ValueError(f"{pid} is no process")


def _places(settings: PyflowSettings) -> Sequence[Attach]:
    # Ends first: a call that is under way between the two is left out, rather than taken for its caller's.
    return [
        Attach(program, "usdt", settings.python, f"python:{probe}", pid=pid)
        for program, probe in (("on_return", "function__return"), ("on_entry", "function__entry"))
        for pid in settings.pids
    ]


PYFLOW = Collector(
    name="pyflow",
    version="1",
    help="Calls by function of chosen Python processes; their time where the interpreter tells of entries",
    program=core(Path(__file__).with_name("pyflow.bpf.c")),
    maps=(
        Map(
            "functions",
            key=(
                label("pid", "u32", help="the process"),
                label("name", "char[48]", help="the function's name, without its class, cut to 47 bytes"),
                label("file", "char[96]", help="the file that it stands in, cut to 95 bytes"),
            ),
            value=(
                counter("calls", unit="calls", help="that have returned, raised or yielded"),
                counter(
                    "timed",
                    unit="calls",
                    help="those whose entry was told too; CPython 3.11: in threads with a profiler",
                ),
                counter("total_ns", unit="ns", help="of these, from entry to return, with what they called"),
                counter("self_ns", unit="ns", help="of these, without the timed calls inside them"),
            ),
            help="functions that were called since the collector was loaded",
        ),
    ),
    attach=_places,
    settings=PyflowSettings,
)


@hookimpl
def bpfleet_collectors() -> list[Collector]:
    """The collector of this plugin."""
    return [PYFLOW]

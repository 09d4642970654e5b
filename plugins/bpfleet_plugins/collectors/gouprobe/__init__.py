"""gouprobe: calls of a function of a Go program, by an integer and a string among its arguments; goroutines
that start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from bpfleet import Attach, Collector, CollectorSettings, Map, core, counter, hookimpl, label

_MOST_WORDS = 64


class GouprobeSettings(CollectorSettings, frozen=True, kw_only=True):
    """Settings of `[collectors.gouprobe]`."""

    binary: str
    """Path of the Go program."""
    symbol: str
    """The function, such as `main.work` or `net/http.(*conn).serve`; `go tool nm` lists them."""
    integer: int = 0
    """Which word of the arguments, from 0 on, is the integer; -1: none."""
    string: int = 1
    """Which word is the string's first of two; -1: none."""
    arguments: Literal["registers", "stack"] = "registers"
    """Where Go passes arguments: since 1.17 in registers."""
    pid: int = 0
    """One process of the program only; 0: each."""

    def __post_init__(self) -> None:
        most = _MOST_WORDS if self.arguments == "stack" else 9
        for name, words in (("integer", 1), ("string", 2)):
            at = getattr(self, name)
            if not -1 <= at <= most - words:
                raise ValueError(f"{name} is {at}; there it can be -1 to {most - words}")
        if self.pid < 0:
            raise ValueError(f"{self.pid} is no process")


def _places(settings: GouprobeSettings) -> Sequence[Attach]:
    return [
        Attach("on_call", "uprobe.body", settings.binary, settings.symbol, pid=settings.pid),
        Attach("on_goroutine", "uprobe.body", settings.binary, "runtime.newproc1", pid=settings.pid),
    ]


def _knobs(settings: GouprobeSettings) -> Mapping[str, int]:
    return {
        "integer_at": settings.integer,
        "string_at": settings.string,
        "on_stack": settings.arguments == "stack",
    }


GOUPROBE = Collector(
    name="gouprobe",
    version="1",
    help="Calls of a function of a Go program, by its arguments; goroutines that start",
    program=core(Path(__file__).with_name("gouprobe.bpf.c")),
    maps=(
        Map(
            "by_arguments",
            key=(
                label("integer", "s64", help="0 where none is asked for"),
                label("string", "char[64]", help="cut to 63 bytes; empty where none is asked for"),
            ),
            value=(counter("count", unit="calls"),),
            help="calls by arguments; of further arguments they are counted as failed inserts",
        ),
        Map(
            ".bss",
            key=(),
            value=(
                counter("calls", "u64", unit="calls", help="all calls, whatever their arguments"),
                counter("goroutines", "u64", unit="goroutines", help="goroutines that have started"),
            ),
            help="totals",
        ),
    ),
    attach=_places,
    settings=GouprobeSettings,
    knobs=_knobs,
)


@hookimpl
def bpfleet_collectors() -> list[Collector]:
    """The collector of this plugin."""
    return [GOUPROBE]

"""opens: how often each command opens a file, and how often that fails."""

from __future__ import annotations

from pathlib import Path

from bpfleet import Collector, CollectorSettings, Map, core, counter, hookimpl, label


class Settings(CollectorSettings, frozen=True, kw_only=True):
    """One setting of our own, which becomes the program's knob."""

    only_pid: int = 0
    """Count this process only; 0: all."""


@hookimpl
def bpfleet_collectors() -> list[Collector]:
    """Our one collector."""
    return [
        Collector(
            name="opens",
            version="2.1",
            help="Files opened, by command",
            program=core(Path(__file__).with_name("opens.bpf.c")),
            maps=(
                Map(
                    "opens",
                    key=(label("comm", "char[16]"),),
                    value=(counter("count", unit="calls"), counter("failed", unit="calls")),
                ),
            ),
            settings=Settings,
            knobs=lambda settings: {"only_pid": settings.only_pid},
        )
    ]

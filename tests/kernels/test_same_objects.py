"""The files that this kernel runs are the ones that every other kernel runs: nothing was compiled for it."""

from __future__ import annotations

from pathlib import Path

from bpfleet.loader.compile import core_sources, object_for
from probes import BUILT, PROBES, file_name
from running import Running, doctor, excuse, is_debians

ROOT = Path(__file__).parents[2]


def test_the_probes_are_the_objects_that_were_built_once(running: Running) -> None:
    folder = running.agent.config.parent / "programs"
    assert not list(folder.glob("*.c"))
    for name, probe in PROBES.items():
        carried = folder / f"{file_name(name)}.bpf.o"
        assert carried.read_bytes() == (BUILT / carried.name).read_bytes()
        assert excuse(probe) or running.collector(file_name(name))["state"] == "running"


def test_the_built_in_collectors_objects_were_there(running: Running) -> None:
    if is_debians():  # where nothing has been compiled since the machine was booted
        assert "every .bpf.c has an object that is up to date" in doctor()["clang"]["detail"]
    for source in core_sources(ROOT / "plugins", ROOT / "bpf"):
        assert object_for(source) == source.with_suffix(".o")

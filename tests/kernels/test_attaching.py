"""Every way to attach on this kernel, each with a known number of events."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from probes import PROBES, file_name
from running import EXACT, Running, counted, excuse


@pytest.fixture(scope="module")
def counts(running: Running) -> Mapping[str, tuple[int, int]]:
    """(events, hits) of every probe that runs."""
    return counted(running)


@pytest.mark.parametrize("name", PROBES)
def test_each_event_is_counted_where_the_kernel_has_the_kind(
    running: Running,
    counts: Mapping[str, tuple[int, int]],
    record: Callable[[str, str, str], None],
    name: str,
) -> None:
    refusal = running.refusal(file_name(name))
    if refusal:
        why = excuse(PROBES[name])
        assert why, f"{name} is refused on a kernel that has it: {refusal}"
        record("attach", name, why)
        pytest.skip(f"{name}: {why}")
    events, hits = counts[name]
    if PROBES[name].event in EXACT:
        assert hits == events
    else:
        assert hits >= events // 2 > 0
    record("attach", name, "yes")


def test_the_worker_that_reads_all_this_has_no_privileges(running: Running) -> None:
    pid = running.agent.child("bpfleet.worker")
    with open(f"/proc/{pid}/status") as file:
        said = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
    assert "0" not in said["Uid"].split()
    assert {int(said[kind], 16) for kind in ("CapEff", "CapPrm", "CapBnd", "CapAmb")} == {0}
    assert said["NoNewPrivs"] == "1"

"""One object whose programs are alternatives: each kernel takes the best that it has."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from probes import LADDERS, PROBES
from running import EVENTS, Running, excuse

PROBE_OF = {"by_fentry": "fentry", "by_kprobe": "kprobe", "by_raw_tp": "raw_tp"}


@pytest.mark.parametrize("name", LADDERS)
def test_the_first_rung_that_this_kernel_has_is_taken_and_counts(
    running: Running, record: Callable[[str, str, str], None], name: str
) -> None:
    rungs = LADDERS[name]
    there = [rung for rung in rungs if rung in PROBE_OF and not excuse(PROBES[PROBE_OF[rung]])]
    (said,) = running.collector(name)["ladders"]
    assert said["rung"] == rungs.index(there[0]) + 1
    assert said["taken"].startswith(PROBE_OF[there[0]].replace("raw_tp", "raw_tp/sys_enter"))
    assert [one.partition(":")[0] for one in said["refused"]] == rungs[: said["rung"] - 1]
    before = running.hits(name)
    made = EVENTS["getpgid"](running)
    assert running.hits(name) - before == made
    record("ladders", " → ".join(PROBE_OF.get(rung, "tp_btf of no event") for rung in rungs), said["taken"])

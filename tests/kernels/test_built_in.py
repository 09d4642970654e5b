"""Every built-in collector on this kernel."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from running import BUILT_IN, EVENTS, Running, doctor, is_debians

Record = Callable[[str, str, str], None]


@pytest.mark.parametrize("name", BUILT_IN)
def test_it_runs_and_says_where_it_is_attached(running: Running, record: Record, name: str) -> None:
    assert not running.refusal(name), running.agent.stderr
    said = running.collector(name)
    taken = {one["taken"] for one in said.get("ladders", ())}
    places = [one["attached"] for one in said["programs"] if one["attached"]]
    assert places
    assert not [one["error"] for one in said["programs"] if "error" in one]
    for one in said["maps"]:
        assert running.agent.next_snapshot(name, one["name"])["complete"]
    ladders = "".join(f"; of its alternatives {one}" for one in sorted(taken))
    record("collectors", name, ", ".join(sorted({_kind(place) for place in places})) + ladders)


def _kind(place: str) -> str:
    return place.partition("/")[0].partition(":")[0]


def test_programs_that_were_started_are_counted(running: Running, tmp_path: Path) -> None:
    name = f"k{os.getpid()}"
    (tmp_path / name).symlink_to("/bin/true")

    def count() -> int:
        rows = running.agent.next_snapshot("execve", "counts")["rows"]
        return sum(int(row["count"]) for row in rows if row["comm"] == name)

    assert count() == 0
    for _ in range(6):
        subprocess.run([tmp_path / name], check=True)
    assert count() == 6


def test_cpu_time_is_what_proc_says(running: Running) -> None:
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])

    def counted() -> int:
        rows = running.agent.next_snapshot("cputime", "processes")["rows"]
        return sum(int(row["cpu_ns"]) for row in rows if row["pid"] == busy.pid)

    def said() -> int:
        return int(Path(f"/proc/{busy.pid}/schedstat").read_text().split()[0])

    try:
        first = said(), counted(), said()
        EVENTS["busy"](running)
        last = said(), counted(), said()
    finally:
        busy.kill()
        busy.wait()
    # A snapshot lies between the two readings around it.
    assert last[0] - first[2] <= last[1] - first[1] <= last[2] - first[0]
    assert last[1] > first[1]


def test_the_doctor_finds_nothing_missing(running: Running) -> None:
    findings = doctor().values()
    assert [one for one in findings if one["state"] == "missing"] == []
    if is_debians():
        kinds = {one["what"] for one in findings if one["area"] == "attaching" and one["state"] == "ok"}
        assert kinds >= {"kprobe", "kretprobe", "fentry", "fexit", "LSM", "tp_btf", "uprobe", "iter"}

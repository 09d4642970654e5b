"""fileops: a program that does known things with a file is the source, and what /proc/PID/io says of it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent_process import Agent
from bpfleet_plugins.decoders.mount import Mounts, places

Start = Callable[..., Agent]
KNOWN = Path(__file__).with_name("known_files.c")


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, under a name that nobody else on this machine has."""
    made = tmp_path_factory.mktemp("bin") / f"f{os.getpid()}"
    subprocess.run(["gcc", "-O1", "-o", made, KNOWN], check=True)
    return made


@contextmanager
def own_file_system(place: Path) -> Iterator[Path]:
    """A tmpfs that nobody else uses."""
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


def run_known(agent: Agent, known: Path, file: Path) -> tuple[dict[str, dict[str, Any]], dict[str, int]]:
    """({op: row} of the program on the file's own file system, and of failed opens), /proc's own counts."""
    process = subprocess.Popen([known, file], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    agent.next_snapshot("fileops", "operations")
    printed, _ = process.communicate("go\n", timeout=60)
    assert process.returncode == 0
    before, after = (
        {name: int(count) for name, count in (line.split(": ") for line in part.splitlines())}
        for part in printed.split("--\n")
    )
    snapshot = agent.next_snapshot("fileops", "operations")
    assert snapshot["losses"] == {"failed_insert": 0}
    mine = [row for row in snapshot["rows"] if row["comm"] == known.name]
    rows = {row["op"]: row for row in mine if row["dev_mount"] == str(file.parent)}
    failed = [row for row in mine if row["dev"] == 0]
    assert [row["op"] for row in failed] == ["open"]
    return rows | {"failed open": failed[0]}, {name: after[name] - before[name] for name in after}


def test_known_operations_by_file_system(start_agent: Start, known: Path, tmp_path: Path) -> None:
    with own_file_system(tmp_path / "here") as place:
        agent = start_agent('[agent]\ninterval = "200ms"\n[collectors.fileops]')
        rows, said = run_known(agent, known, place / "file")
    assert {op: (row["count"], row["failed"], row["bytes"]) for op, row in rows.items()} == {
        "write": (110, 0, 100 * 1000 + 10 * 300),
        "read": (3 + 50 + 7 + 4, 4, 100_000 + 50 * 10 + 7 * 300),
        "fsync": (7, 0, 0),
        "open": (1 + 9, 0, 0),
        "failed open": (8, 8, 0),
    }
    # The pipe, which is no file, is in what /proc says; so is one reading of that itself, by its end.
    own = said["rchar"] - rows["read"]["bytes"] - 6 * 10
    assert 0 < own < 512
    assert said["syscr"] == rows["read"]["count"] + 6 + 1
    assert said["wchar"] == rows["write"]["bytes"] + 6 * 10
    assert said["syscw"] == rows["write"]["count"] + 6


def test_durations_are_in_their_slots(start_agent: Start, known: Path, tmp_path: Path) -> None:
    with own_file_system(tmp_path / "here") as place:
        agent = start_agent('[agent]\ninterval = "200ms"\n[collectors.fileops]')
        rows, _ = run_known(agent, known, place / "file")
    for op, row in rows.items():
        assert sum(row["slots"]) == row["count"]
        least = sum(count << slot for slot, count in enumerate(row["slots"]) if slot)
        assert least <= row["total_ns"] < 2 * least + 2 * row["count"], op


# ---- the decoder


def test_a_file_system_is_named_as_findmnt_names_it(tmp_path: Path) -> None:
    with own_file_system(tmp_path / "with space") as place:
        said = subprocess.run(
            ["findmnt", "-rno", "MAJ:MIN", str(place)], check=True, capture_output=True, text=True
        ).stdout
        major, minor = map(int, said.split(":"))
        number = np.array([major << 20 | minor], "<u4")
        mounts = Mounts()
        assert mounts.names(number).tolist() == [os.fsencode(place)]
    # It keeps its name, as its counters stay.
    assert mounts.names(number).tolist() == [os.fsencode(place)]


def test_what_is_mounted_later_is_found(tmp_path: Path) -> None:
    mounts = Mounts()
    mounts.names(np.array([0], "<u4"))
    with own_file_system(tmp_path / "later") as place:
        number = os.stat(place).st_dev
        shown = mounts.names(np.array([os.major(number) << 20 | os.minor(number)], "<u4")).tolist()
    assert shown == [os.fsencode(place)]


def test_of_several_places_the_one_with_all_of_it_and_then_the_shortest() -> None:
    line = "36 35 8:1 {} {} rw master:1 - ext4 /dev/sda1 rw\n"
    text = line.format("/folder", "/a") + line.format("/", "/long/er") + line.format("/", r"/l\040ng")
    assert places(text.encode()) == {8 << 20 | 1: b"/l ng"}


def test_a_file_system_that_is_mounted_nowhere_is_its_numbers() -> None:
    assert Mounts().names(np.array([0, 4000 << 20 | 5], "<u4")).tolist() == [b"", b"4000:5"]


def test_what_is_remembered_is_bounded(tmp_path: Path) -> None:
    info = tmp_path / "mountinfo"
    info.write_text("".join(f"1 1 0:{n} / /m{n} rw - tmpfs none rw\n" for n in range(5000)))
    mounts = Mounts(info)
    assert mounts.names(np.array([4999], "<u4")).tolist() == [b"/m4999"]
    assert len(mounts._places) == 4096

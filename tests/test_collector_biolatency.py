"""biolatency: known direct I/O on a loop device, and /sys/block/*/stat of the same time, are the sources; and
libbpf-tools' biolatency in the same window."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent_process import Agent
from bpfleet_plugins.decoders.disk import Disks
from loop_device import LoopDevice, loop_device
from tool_process import attached_programs, interrupted, tool_running

Start = Callable[..., Agent]
CONFIG = '[agent]\ninterval = "200ms"\n[collectors.biolatency]'
NONE = {"count": 0, "errors": 0, "bytes": 0, "total_ns": 0}


def sparse(path: Path, size: int) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    return path


def rows_of(agent: Agent, disk: LoopDevice) -> dict[str, dict[str, Any]]:
    """The disk's rows by operation."""
    snapshot = agent.next_snapshot("biolatency", "disks")
    assert snapshot["losses"] == {"failed_insert": 0}
    rows = [row for row in snapshot["rows"] if row["dev"] == disk.dev]
    assert {row["dev_disk"] for row in rows} <= {disk.name}
    return {row["op_enum"]: row for row in rows}


def grown(
    before: dict[str, dict[str, Any]], after: dict[str, dict[str, Any]], op: str
) -> tuple[int, int, int]:
    """(requests, bytes, errors) of an operation between two."""
    old, new = before.get(op, NONE), after.get(op, NONE)
    return new["count"] - old["count"], new["bytes"] - old["bytes"], new["errors"] - old["errors"]


def test_known_requests_and_bytes_by_operation(start_agent: Start, tmp_path: Path) -> None:
    with loop_device(sparse(tmp_path / "disk", 64 << 20)) as disk:
        agent = start_agent(CONFIG)
        before, said_before = rows_of(agent, disk), disk.stat()
        for number in range(50):
            assert disk.write(number << 16, 4096) == 4096
        for number in range(30):
            assert disk.read(number << 16, 16384) == 16384
        for _ in range(7):
            disk.flush()
        disk.discard(1 << 20, 1 << 20)
        after, said_after = rows_of(agent, disk), disk.stat()
    assert grown(before, after, "REQ_OP_WRITE") == (50, 50 * 4096, 0)
    assert grown(before, after, "REQ_OP_READ") == (30, 30 * 16384, 0)
    assert grown(before, after, "REQ_OP_FLUSH") == (7, 0, 0)
    assert grown(before, after, "REQ_OP_DISCARD") == (1, 1 << 20, 0)
    said = {name: said_after[name] - said_before[name] for name in said_after}
    # There a flush counts as a write of nothing too.
    said["writes"] -= said["flushes"]
    assert said == {
        "reads": 30,
        "read_bytes": 30 * 16384,
        "writes": 50,
        "written_bytes": 50 * 4096,
        "discards": 1,
        "discarded_bytes": 1 << 20,
        "flushes": 7,
    }
    for op, row in after.items():
        assert sum(row["slots"]) == row["count"], op
        # Each request lies in a slot whose bounds hold what all of them took.
        least = sum(count * (1 << slot if slot else 0) for slot, count in enumerate(row["slots"]))
        assert least * 1000 <= row["total_ns"] < (2 * least + 2 * row["count"]) * 1000, op


def test_requests_that_fail_are_errors_and_transfer_nothing(start_agent: Start, tmp_path: Path) -> None:
    # A file system of 1 MiB below a disk of 64: what is written beyond finds no room.
    room = tmp_path / "room"
    room.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", room], check=True)
    try:
        with loop_device(sparse(room / "disk", 64 << 20)) as disk:
            agent = start_agent(CONFIG)
            before = rows_of(agent, disk)
            failed = 0
            for number in range(20):
                try:
                    disk.write(number << 20, 1 << 18)
                except OSError:
                    failed += 1
            after = rows_of(agent, disk)
    finally:
        subprocess.run(["umount", room], check=True)
    assert 0 < failed < 20
    count, size, errors = grown(before, after, "REQ_OP_WRITE")
    assert (count, size, errors) == (20, (20 - failed) << 18, failed)


def test_a_request_that_is_answered_in_parts_is_one_request(start_agent: Start, tmp_path: Path) -> None:
    backing = sparse(tmp_path / "disk", 1 << 20)
    with loop_device(backing, "--direct-io=on") as disk:
        agent = start_agent(CONFIG)
        before = rows_of(agent, disk)
        with backing.open("r+b") as file:
            file.truncate(32768)  # behind the back of the device
        with pytest.raises(OSError, match="Input/output"):
            disk.read(0, 65536)
        after = rows_of(agent, disk)
    # Its first half came; then the device found the end of its file.
    assert grown(before, after, "REQ_OP_READ") == (1, 32768, 1)


def test_the_tool_says_the_same_of_the_same_time(start_agent: Start, tmp_path: Path) -> None:
    tool = shutil.which("biolatency", path="/usr/sbin:/usr/bin")
    assert tool is not None, "libbpf-tools is in the Makefile's TEST_PACKAGES"
    with loop_device(sparse(tmp_path / "disk", 64 << 20)) as disk:
        agent = start_agent(CONFIG)
        with tool_running(tool, "-d", disk.name, "60", "1") as counting:
            agent.wait_for(lambda: attached_programs(counting.pid) >= 2)
            before = rows_of(agent, disk)
            for number in range(200):
                disk.write(number << 14, 4096)
            after = rows_of(agent, disk)
            printed = interrupted(counting)
    theirs = sum(int(count) for count in re.findall(r"-> \d+ +: (\d+)", printed))
    assert grown(before, after, "REQ_OP_WRITE")[0] == 200
    assert theirs == 200, printed


# ---- the decoder


def test_a_disk_is_named_as_proc_partitions_names_it() -> None:
    partitions = [line.split() for line in Path("/proc/partitions").read_text().splitlines()[2:]]
    assert partitions
    numbers = [int(one[0]) << 20 | int(one[1]) for one in partitions]
    assert Disks().names(np.array(numbers, "<u4")).tolist() == [one[3].encode() for one in partitions]


def test_a_disk_that_was_never_there_is_its_numbers() -> None:
    assert Disks().names(np.array([0, 4000 << 20 | 5], "<u4")).tolist() == [b"", b"4000:5"]


def test_a_disk_that_has_gone_keeps_its_name_until_its_number_is_used_again(tmp_path: Path) -> None:
    links = tmp_path / "dev/block"
    links.mkdir(parents=True)
    link = links / "8:1"
    link.symlink_to("../../devices/sda/sda1")
    disks, number = Disks(tmp_path), np.array([8 << 20 | 1], "<u4")
    assert disks.names(number).tolist() == [b"sda1"]
    link.unlink()
    assert disks.names(number).tolist() == [b"sda1"]
    link.symlink_to("../../devices/sdb/sdb1")
    assert disks.names(number).tolist() == [b"sdb1"]


def test_disks_that_are_remembered_are_bounded(tmp_path: Path) -> None:
    links = tmp_path / "dev/block"
    links.mkdir(parents=True)
    for number in range(1100):
        (links / f"8:{number}").symlink_to(f"../sd{number}")
    disks = Disks(tmp_path)
    disks.names(np.arange(8 << 20, (8 << 20) + 1100))
    assert len(disks._last) == 1024
    assert disks._last[8 << 20 | 1099] == "sd1099"

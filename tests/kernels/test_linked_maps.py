"""Maps whose entries lead elsewhere, on this kernel: what they lead to is in the rows."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable

import pytest

from running import EVENTS, Running, is_debians, kernel_version

Record = Callable[[str, str, str], None]
_SO_COOKIE = 57


@pytest.fixture(scope="module")
def calls(running: Running) -> int:
    """Calls that each program has counted."""
    return EVENTS["getpgid"](running)


def test_stacks_are_told_as_calls(running: Running, calls: int, record: Record) -> None:
    before = sum(row["calls"] for row in running.agent.next_snapshot("stacks", "counts")["rows"])
    EVENTS["getpgid"](running)
    rows = running.agent.next_snapshot("stacks", "counts")["rows"]
    assert sum(row["calls"] for row in rows) - before == calls
    told = running.agent.snapshots("stacks", "counts_stacks")
    texts = {row["stack"]: row["text"].split(";") for one in told for row in one["rows"]}
    for row in rows:
        inside = [frame for frame in texts[row["stack"]] if frame.endswith("_[k]")]
        outside = [frame for frame in texts[row["stack"]] if not frame.endswith("_[k]")]
        assert "do_syscall_64_[k]" in inside
        # A machine's tests run under a chroot, and 6.1 tells files by their paths from above it, where nobody
        # can read them: then there is the file's name, and the offset.
        by_offset = kernel_version() < (6, 12) and outside[-1].startswith("[libc.so.6+0x")
        assert "getpgid" in outside[-1] or by_offset
    record("maps", "stack_trace", "with symbols of kernel and programs")


def test_maps_of_maps_are_read_with_the_outer_key_in_front(
    running: Running, calls: int, record: Record
) -> None:
    array = running.agent.next_snapshot("nest", "in_array")
    hashed = running.agent.next_snapshot("nest", "in_hash")
    assert array["complete"]
    assert hashed["complete"]
    by_key = {tuple(row.values())[:2]: tuple(row.values())[2] for row in array["rows"]}
    assert set(by_key) == {(1, 10), (3, 30), (3, 31)}
    (count,) = set(by_key.values())
    assert count >= calls
    assert [tuple(row.values()) for row in hashed["rows"]] == [(0, 7, count)]
    record("maps", "array_of_maps", array["method"])
    record("maps", "hash_of_maps", hashed["method"])


def test_storage_of_tasks_is_read_by_thread(running: Running, calls: int, record: Record) -> None:
    snapshot = running.agent.next_snapshot("by_task", "stored")
    rows = {row["pid"]: tuple(row.values())[-1] for row in snapshot["rows"]}
    assert rows[os.getpid()] >= calls
    record("maps", "task_storage", snapshot["method"])


def test_storage_of_cgroups_is_read_by_cgroup(running: Running, calls: int, record: Record) -> None:
    if kernel_version() < (6, 2):
        assert running.refusal("by_cgroup")
        record("maps", "cgrp_storage", "since Linux 6.2")
        pytest.skip("storage of cgroups came with Linux 6.2")
    snapshot = running.agent.next_snapshot("by_cgroup", "stored")
    assert sum(tuple(row.values())[-1] for row in snapshot["rows"]) >= calls
    record("maps", "cgrp_storage", snapshot["method"])


def test_storage_of_sockets_is_read_by_socket(running: Running, record: Record) -> None:
    if "Operation not permitted" in running.agent.stderr and not is_debians():
        record("maps", "sk_storage", "refused by this kernel: Operation not permitted")
        pytest.skip("this kernel refuses iter/bpf_sk_storage_map programs with EPERM, as it does fentry")
    with running.inside(), socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as client:
        client.connect(server.getsockname())
        (cookie,) = struct.unpack("=Q", client.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, 8))
        snapshot = running.agent.next_snapshot("by_socket", "stored")
    rows = {row["cookie"]: tuple(row.values())[-1] for row in snapshot["rows"]}
    assert rows == {cookie: 1}
    record("maps", "sk_storage", snapshot["method"])

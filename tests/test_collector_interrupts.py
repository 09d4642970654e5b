"""softirqs and hardirqs: the sources are /proc/softirqs and /proc/interrupts, read around snapshots, and
libbpf-tools' softirqs and hardirqs."""

from __future__ import annotations

import os
import re
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent_process import Agent
from tool_process import attached_programs, interrupted, tool_running

Start = Callable[..., Agent]
Counts = dict[Any, int]


def softirqs() -> Counts:
    """Runs of each vector so far, by the kernel's own name for it."""
    lines = Path("/proc/softirqs").read_text().splitlines()[1:]
    return {f"{one.split()[0][:-1]}_SOFTIRQ": sum(map(int, one.split()[1:])) for one in lines}


def interrupts() -> dict[int, tuple[int, str]]:
    """By number: interrupts so far, and the handlers' names."""
    head, *lines = Path("/proc/interrupts").read_text().splitlines()
    found = {}
    for line in lines:
        number, *words = line.split()
        if number[:-1].isdigit():
            cpus = len(head.split())
            found[int(number[:-1])] = sum(map(int, words[:cpus])), words[-1] if len(words) > cpus else ""
    return found


def send_datagrams(count: int) -> None:
    """Over the loopback: each is received in a softirq."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as to,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        to.bind(("127.0.0.1", 0))
        for _ in range(count):
            sender.sendto(b"x", to.getsockname())
            to.recv(1)


def softirq_rows(agent: Agent) -> dict[str, dict[str, Any]]:
    return {row["vector_enum"]: row for row in agent.next_snapshot("softirqs", "vectors")["rows"]}


def test_softirqs_are_as_many_as_proc_says(start_agent: Start) -> None:
    agent = start_agent('[agent]\ninterval = "200ms"\n[collectors.softirqs]')
    first = softirqs(), softirq_rows(agent), softirqs()
    send_datagrams(3000)
    last = softirqs(), softirq_rows(agent), softirqs()
    assert set(last[1]) == set(last[0])
    for name, row in last[1].items():
        counted = row["count"] - first[1][name]["count"]
        # A snapshot lies between the two readings around it. /proc counts one that runs, we do not yet.
        running = os.cpu_count() or 1
        least, most = last[0][name] - first[2][name], last[2][name] - first[0][name]
        assert least - running <= counted <= most + running, name
    assert last[1]["NET_RX_SOFTIRQ"]["count"] - first[1]["NET_RX_SOFTIRQ"]["count"] >= 1000


def test_the_time_of_softirqs_is_in_their_slots(start_agent: Start) -> None:
    agent = start_agent('[agent]\ninterval = "200ms"\n[collectors.softirqs]')
    softirq_rows(agent)
    send_datagrams(500)
    for name, row in softirq_rows(agent).items():
        assert sum(row["slots"]) == row["count"]
        least = sum(count << slot for slot, count in enumerate(row["slots"]) if slot)
        assert least <= row["total_ns"] <= 2 * least + 2 * row["slots"][0], name


def test_interrupts_are_as_many_as_proc_says(start_agent: Start, tmp_path: Path) -> None:
    agent = start_agent('[agent]\ninterval = "200ms"\n[collectors.hardirqs]')

    def counted() -> Counts:
        rows = agent.next_snapshot("hardirqs", "handlers")["rows"]
        return {(row["irq"], row["name"]): row["count"] for row in rows}

    first = interrupts(), counted(), interrupts()
    make_interrupts(tmp_path)
    last = interrupts(), counted(), interrupts()
    there = {number: last[0][number][0] - first[2][number][0] for number in last[0]}
    if max(there.values()) <= 100:
        pytest.skip("the disk below the tests' folder makes no interrupts that have handlers")
    for number, (_, name) in last[0].items():
        mine = sum(count - first[1].get(key, 0) for key, count in last[1].items() if key[0] == number)
        # An edge that comes while the handler runs is counted by /proc; it runs once more, or not at all.
        slack = max(os.cpu_count() or 1, there[number] // 200)
        assert there[number] - slack <= mine <= last[2][number][0] - first[0][number][0] + slack, name
        if mine and "," not in name:
            assert (number, name[:27]) in last[1]


def make_interrupts(folder: Path) -> None:
    """Written through to the disk that `folder` is on, which answers by interrupts."""
    fd = os.open(folder / "file", os.O_CREAT | os.O_WRONLY | os.O_DSYNC)
    try:
        for number in range(200):
            os.pwrite(fd, os.urandom(4096), number << 12)
    finally:
        os.close(fd)


def tool(name: str) -> str:
    found = shutil.which(name, path="/usr/sbin:/usr/bin")
    assert found is not None, "libbpf-tools is in the Makefile's TEST_PACKAGES"
    return found


def test_the_tool_sees_as_many_softirqs(start_agent: Start) -> None:
    agent = start_agent('[agent]\ninterval = "200ms"\n[collectors.softirqs]')
    softirq_rows(agent)
    with tool_running(tool("softirqs"), "-d", "60", "1") as counting:
        agent.wait_for(lambda: attached_programs(counting.pid) >= 2)
        before = softirq_rows(agent)["NET_RX_SOFTIRQ"]["count"]
        send_datagrams(20_000)
        counted = softirq_rows(agent)["NET_RX_SOFTIRQ"]["count"] - before
        printed = interrupted(counting)
    shown = printed.partition("softirq = net_rx")[2].partition("softirq =")[0]
    theirs = sum(int(count) for count in re.findall(r"-> \d+ +: (\d+)", shown))
    # Its window is longer than ours on both sides.
    assert counted <= theirs <= counted * 1.2 + 100, printed


def test_the_tool_sees_as_many_interrupts(start_agent: Start, tmp_path: Path) -> None:
    agent = start_agent('[agent]\ninterval = "200ms"\n[collectors.hardirqs]')

    def counted() -> Counts:
        return {row["name"]: row["count"] for row in agent.next_snapshot("hardirqs", "handlers")["rows"]}

    counted()
    with tool_running(tool("hardirqs"), "-C", "60", "1") as counting:
        agent.wait_for(lambda: attached_programs(counting.pid) >= 1)
        before = counted()
        make_interrupts(tmp_path)
        after = counted()
        printed = interrupted(counting)
    mine, name = max(((after[one] - before.get(one, 0), one) for one in after), default=(0, ""))
    if mine <= 100:
        pytest.skip("the disk below the tests' folder makes no interrupts that have handlers")
    theirs = {one: int(count) for one, count in re.findall(r"^(\S+) +(\d+)\s*$", printed, re.MULTILINE)}
    assert mine <= theirs[name] <= mine * 1.2 + 100, printed

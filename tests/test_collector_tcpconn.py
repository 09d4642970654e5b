"""tcpconn: connections by process and peer. The sources: known connects by known processes between two
network namespaces, and what each namespace's /proc/net/snmp counts (ActiveOpens, PassiveOpens,
AttemptFails)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent_process import Agent
from network_namespaces import Host, named, pair

Start = Callable[..., Agent]

SERVER = """
import ctypes, socket, sys
libc = ctypes.CDLL(None)
family = int(sys.argv[2])
server = socket.create_server((sys.argv[1], 0), family=family, backlog=99, dualstack_ipv6=family == 10)
print(server.getsockname()[1])
for at in range(int(sys.argv[3])):
    if at % 2:  # accept(2), and not accept4(2), which Python calls
        number = libc.accept(server.fileno(), None, None)
        socket.close(number)
    else:
        server.accept()[0].close()
print("done")
sys.stdin.read()
"""
CLIENT = """
import socket, sys
for _ in range(int(sys.argv[3])):
    try:
        socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=60).close()
    except OSError as error:
        if len(sys.argv) < 5 or error.errno != int(sys.argv[4]):
            raise
"""
CONFIG = '[agent]\ninterval = "100ms"\n[collectors.tcpconn]\n'


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[Host, Host]]:
    with pair() as made:
        yield made


def rows_of(snapshot: dict[str, Any], **wanted: Any) -> list[dict[str, Any]]:
    return [row for row in snapshot["rows"] if all(row[name] == value for name, value in wanted.items())]


def cgroup_of(pid: int) -> int:
    """The inode of a process's cgroup directory, by /proc and the mounted file system."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    root = next(fields[1] for fields in mounts if fields[2] == "cgroup2")
    home = Path(f"/proc/{pid}/cgroup").read_text().rpartition("::")[2].strip()
    return os.stat(root + home).st_ino


@pytest.mark.parametrize("address", ["ipv4", "ipv6", "ipv4 at an IPv6 socket"])
def test_connections_out_and_in_are_those_of_their_processes(
    start_agent: Start, hosts: tuple[Host, Host], address: str
) -> None:
    here, there = hosts
    agent = start_agent(CONFIG)
    agent.next_snapshot("tcpconn", "connections")
    before = here.counters("Tcp")["ActiveOpens"], there.counters("Tcp")["PassiveOpens"]
    listens_on = {"ipv4": (there.ipv4, 2), "ipv6": (there.ipv6, 10)}.get(address, ("::", 10))
    server = there.start(named("tells", SERVER), *listens_on, 37)
    port = int(server.line())
    ends = (here.ipv6, there.ipv6) if address == "ipv6" else (here.ipv4, there.ipv4)
    client = here.start(named("asks", CLIENT), ends[1], port, 37)
    assert server.line() == "done"
    client.end()

    snapshot = agent.next_snapshot("tcpconn", "connections")
    assert snapshot["losses"] == {"failed_insert": 0, "evicted": 0}
    (out,) = rows_of(snapshot, pid=client.pid)
    (into,) = rows_of(snapshot, pid=server.pid)
    assert (out["direction"], out["comm"], out["address_ip"], out["port"], out["count"]) == (
        *("out", "asks", ends[1], port, 37),
    )
    assert (into["direction"], into["comm"], into["address_ip"], into["port"], into["count"]) == (
        *("in", "tells", ends[0], port, 37),
    )
    assert out["cgroup_id"] == into["cgroup_id"] == cgroup_of(server.pid)
    assert here.counters("Tcp")["ActiveOpens"] - before[0] == 37
    assert there.counters("Tcp")["PassiveOpens"] - before[1] == 37
    server.end()


def test_connects_that_fail_are_counted_apart_by_errno(start_agent: Start, hosts: tuple[Host, Host]) -> None:
    here, there = hosts
    agent = start_agent(CONFIG)
    agent.next_snapshot("tcpconn", "failures")
    # Nobody has this address, and the packets are sent all the same: no answer ever comes.
    silent = there.ipv4.rpartition(".")[0] + ".77"
    here.knows(silent, there)
    here.set("net.ipv4.tcp_syn_retries", 1)
    before = here.counters("Tcp")
    refused = here.start(named("refused", CLIENT), there.ipv4, 9, 11, 111)
    refused6 = here.start(named("refused6", CLIENT), there.ipv6, 9, 5, 111)
    unanswered = here.start(named("unanswered", CLIENT), silent, 9, 1, 110)
    gives_up = here.start(
        named(
            "gives-up",
            "import socket\nfor _ in range(4):\n"
            "    one = socket.socket()\n    one.setblocking(False)\n"
            f"    one.connect_ex(({silent!r}, 9))\n    one.close()\n",
        )
    )
    for one in (refused, refused6, gives_up, unanswered):
        one.end()

    snapshot = agent.next_snapshot("tcpconn", "failures")
    for pid, address, comm, name, count in (
        (refused.pid, there.ipv4, "refused", "ECONNREFUSED", 11),
        (refused6.pid, there.ipv6, "refused6", "ECONNREFUSED", 5),
        (unanswered.pid, silent, "unanswered", "ETIMEDOUT", 1),
        (gives_up.pid, silent, "gives-up", "", 4),
    ):
        (row,) = rows_of(snapshot, pid=pid)
        assert (row["address_ip"], row["comm"], row["errno_errno"], row["port"], row["count"]) == (
            *(address, comm, name, 9, count),
        )
        assert not rows_of(agent.next_snapshot("tcpconn", "connections"), pid=pid)
    after = here.counters("Tcp")
    assert (
        after["AttemptFails"] - before["AttemptFails"] == 11 + 5 + 1
    )  # the kernel leaves out what is given up
    assert after["ActiveOpens"] - before["ActiveOpens"] == 11 + 5 + 1 + 4


def test_without_by_pid_processes_of_one_name_are_one(start_agent: Start, hosts: tuple[Host, Host]) -> None:
    here, there = hosts
    agent = start_agent(CONFIG + "by_pid = false\n")
    agent.next_snapshot("tcpconn", "failures")
    for _ in range(3):
        assert here.start(named("together", CLIENT), there.ipv4, 9, 2, 111).end() == ""
    (row,) = rows_of(agent.next_snapshot("tcpconn", "failures"), comm="together")
    assert (row["pid"], row["count"]) == (0, 6)

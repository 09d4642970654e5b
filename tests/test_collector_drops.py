"""drops: dropped packets by reason, protocol and function. The sources: known drops in network namespaces
of our own, the kernel's count of them in /proc/net/snmp, and /proc/kallsyms for the functions' names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent_process import Agent
from network_namespaces import Host, pair

Start = Callable[..., Agent]
CONFIG = '[agent]\ninterval = "100ms"\n[collectors.drops]\n'
SEND = """
import socket, sys
with socket.socket(int(sys.argv[1]), socket.SOCK_DGRAM) as one:
    for _ in range(int(sys.argv[4])):
        one.sendto(b"x" * 500, (sys.argv[2], int(sys.argv[3])))
"""


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[Host, Host]]:
    with pair() as made:
        yield made


def dropped(agent: Agent, reason: str, **wanted: str) -> tuple[int, int, set[str]]:
    """Packets, bytes and functions of the drops with a reason."""
    rows: list[dict[str, Any]] = [
        row
        for row in agent.next_snapshot("drops", "drops")["rows"]
        if row["reason_enum"] == f"SKB_DROP_REASON_{reason}"
        and all(row[name] == value for name, value in wanted.items())
    ]
    functions = {row["function"] for row in rows}
    return sum(row["packets"] for row in rows), sum(row["bytes"] for row in rows), functions


def undisturbed(
    agent: Agent, make: Callable[[], int], reason: str, **wanted: str
) -> tuple[int, int, set[str]]:
    """Drops that `make` makes and counts: packets, bytes and functions. Others on this machine may drop
    for the same reason meanwhile, so one round of several has to fit exactly."""
    rounds = []
    for _ in range(5):
        before = dropped(agent, reason, **wanted)
        made = make()
        after = dropped(agent, reason, **wanted)
        rounds.append((made, after[0] - before[0]))
        assert made > 0
        assert after[0] - before[0] >= made
        if after[0] - before[0] == made:
            return made, after[1] - before[1], after[2]
    raise AssertionError(f"made and counted: {rounds}")


def assert_functions(names: set[str]) -> None:
    kernel = {line.split()[2] for line in Path("/proc/kallsyms").read_text().splitlines()}
    assert names
    assert names <= kernel


@pytest.mark.parametrize(("family", "number"), [("ipv4", 2), ("ipv6", 10)])
def test_datagrams_for_a_port_that_is_closed(
    start_agent: Start, hosts: tuple[Host, Host], family: str, number: int
) -> None:
    here, there = hosts
    agent = start_agent(CONFIG)

    def make() -> int:
        before = no_ports(there, family)
        here.start(SEND, number, getattr(there, family), 9, 23).end()
        return no_ports(there, family) - before

    made, size, functions = undisturbed(agent, make, "NO_SOCKET", l3_ethertype=family, l4_protocol="udp")
    assert made == 23
    assert size >= 23 * 500
    assert_functions(functions)


def no_ports(host: Host, family: str) -> int:
    """Datagrams for closed ports, by the namespace's own counters."""
    if family == "ipv4":
        return host.counters("Udp")["NoPorts"]
    lines = host.run("cat", "/proc/net/snmp6").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Udp6NoPorts "))


def test_datagrams_that_a_socket_has_no_room_for(start_agent: Start, hosts: tuple[Host, Host]) -> None:
    here, there = hosts
    agent = start_agent(CONFIG)
    receiver = there.start(
        "import socket, sys\none = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)\none.bind((sys.argv[1], 0))\n"
        "print(one.getsockname()[1])\nsys.stdin.read()\n",
        there.ipv4,
    )
    port = receiver.line()

    def make() -> int:
        before = there.counters("Udp")["RcvbufErrors"]
        here.start(SEND, 2, there.ipv4, port, 100).end()
        return there.counters("Udp")["RcvbufErrors"] - before

    made, _, functions = undisturbed(agent, make, "SOCKET_RCVBUFF", l3_ethertype="ipv4", l4_protocol="udp")
    assert 50 < made <= 100
    assert_functions(functions)
    receiver.end()


def test_tcp_packets_that_nobody_waits_for(start_agent: Start, hosts: tuple[Host, Host]) -> None:
    """SYNs for a port that is closed: each is dropped, and answered with a reset."""
    here, there = hosts
    agent = start_agent(CONFIG)

    def make() -> int:
        before = there.counters("Tcp")["OutRsts"]
        here.start(
            "import socket, sys\nfor _ in range(17):\n    socket.socket().connect_ex((sys.argv[1], 9))\n",
            there.ipv4,
        ).end()
        return there.counters("Tcp")["OutRsts"] - before

    made, _, functions = undisturbed(agent, make, "NO_SOCKET", l3_ethertype="ipv4", l4_protocol="tcp")
    assert made == 17
    assert_functions(functions)

"""tcpretrans: segments sent again. The source: RetransSegs in /proc/net/snmp of network namespaces of our
own, one of which can't answer, since its way back is a black hole.

Timers send again, on top of whatever has the CPU; on some virtual machines no BPF program sees what happens
on top of one process (docs/collectors.md, hidden processes: one event in 400). So whoever finds one segment
too few looks again, with a new agent: what miscounts does so each time."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from agent_process import Agent
from network_namespaces import Host, pair

Start = Callable[..., Agent]
CONFIG = '[agent]\ninterval = "100ms"\n[collectors.tcpretrans]\n'
SERVER = """
import socket, sys
server = socket.create_server((sys.argv[1], 8080), family=int(sys.argv[2]))
print(server.getsockname()[1])
one = server.accept()[0]
for line in sys.stdin:
    got = 0
    while got < int(line):
        got += len(one.recv(1 << 20))
    print(got)
"""
CLIENT = """
import socket, sys
one = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=60)
print("connected")
for line in sys.stdin:
    one.sendall(b"x" * int(line))
    print("sent")
"""


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[Host, Host]]:
    with pair() as made:
        # Else the next connection to an address waits as long for an answer as the last one had to.
        made[0].set("net.ipv4.tcp_no_metrics_save", 1)
        yield made


def rows_to(agent: Agent, address: str) -> list[dict[str, Any]]:
    """What was sent again to an address."""
    rows = agent.next_snapshot("tcpretrans", "peers")["rows"]
    return [row for row in rows if row["address_ip"] == address]


def all_are_seen(attempt: Callable[[], bool]) -> bool:
    """Whether one of three attempts saw every segment; `attempt` itself refuses any other difference."""
    return any(attempt() for _ in range(3))


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_segments_sent_again_are_those_that_the_kernel_counts(
    start_agent: Start, hosts: tuple[Host, Host], family: str
) -> None:
    here, there = hosts
    address, back = getattr(there, family), getattr(here, family)

    def attempt() -> bool:
        agent = start_agent(CONFIG)
        agent.next_snapshot("tcpretrans", "peers")
        before = here.counters("Tcp")["RetransSegs"]
        server = there.start(SERVER, address, 2 if family == "ipv4" else 10)
        port = int(server.line())
        client = here.start(CLIENT, address, port)
        assert client.line() == "connected"

        def counted() -> int:
            return here.counters("Tcp")["RetransSegs"] - before

        there.run("ip", "route", "add", "blackhole", back)
        client.tell(40_000)  # several segments in one buffer
        assert client.line() == "sent"
        agent.wait_for(lambda: counted() > 3)
        there.run("ip", "route", "delete", "blackhole", back)
        server.tell(40_000)
        assert server.line() == "40000"
        client.end()
        server.end()

        (row,) = rows_to(agent, address)
        agent.stop()
        assert (row["state_enum"], row["direction"], row["port"]) == ("TCP_ESTABLISHED", "out", port)
        assert 1 <= row["count"] <= row["segments"] <= counted()
        assert row["failed"] == 0
        return bool(row["segments"] == counted())

    assert all_are_seen(attempt)


def test_connects_without_an_answer_are_told_by_their_state(
    start_agent: Start, hosts: tuple[Host, Host]
) -> None:
    """A SYN comes again; so does a SYN-ACK, for a SYN from an address that does not answer."""
    here, there = hosts
    nobody = there.ipv4.rpartition(".")[0]
    here.knows(nobody + ".77", there)
    there.knows(nobody + ".78", here)
    here.set("net.ipv4.tcp_syn_retries", 2)
    there.set("net.ipv4.tcp_synack_retries", 2)

    def attempt() -> bool:
        agent = start_agent(CONFIG)
        agent.next_snapshot("tcpretrans", "peers")
        before = here.counters("Tcp")["RetransSegs"], there.counters("Tcp")["RetransSegs"]
        server = there.start(
            "import socket, sys\nserver = socket.create_server((sys.argv[1], 8081))\n"
            "print(server.getsockname()[1])\nsys.stdin.read()\n",
            there.ipv4,
        )
        port = int(server.line())
        forged = here.start(
            "import socket, sys\n"
            "with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:\n"
            "    raw.sendto(bytes.fromhex(sys.argv[1]), (sys.argv[2], 0))\n",
            syn(nobody + ".78", there.ipv4, 40_000, port).hex(),
            there.ipv4,
        )
        forged.end()
        failed = here.start(
            "import socket, sys\nprint(socket.socket().connect_ex((sys.argv[1], 9)))", nobody + ".77"
        )
        assert failed.end() == "110\n"  # ETIMEDOUT
        agent.wait_for(lambda: there.counters("Tcp")["RetransSegs"] - before[1] == 2)
        sent = here.counters("Tcp")["RetransSegs"] - before[0]

        (again,) = rows_to(agent, nobody + ".77")
        assert (again["state_enum"], again["direction"], again["port"]) == ("TCP_SYN_SENT", "out", 9)
        assert 1 <= again["segments"] <= sent
        (answer,) = rows_to(agent, nobody + ".78")
        assert (answer["state_enum"], answer["port"]) == ("TCP_NEW_SYN_RECV", port)
        assert answer["direction"] == "in"
        assert 1 <= answer["segments"] <= 2
        agent.stop()
        server.end()
        return bool(sent >= 2 and again["segments"] == sent and answer["segments"] == 2)

    assert all_are_seen(attempt)


def syn(source: str, target: str, port: int, to_port: int) -> bytes:
    """A packet that asks for a connection (RFC 9293, RFC 791); the kernel fills in the IP header's sum."""
    ends = socket.inet_aton(source) + socket.inet_aton(target)
    ip = struct.pack(">BBHHHBBH", 0x45, 0, 40, 1, 0, 64, socket.IPPROTO_TCP, 0) + ends
    tcp = struct.pack(">HHIIBBHHH", port, to_port, 1, 0, 5 << 4, 2, 1000, 0, 0)
    words = struct.unpack(">16H", ends + struct.pack(">HH", socket.IPPROTO_TCP, len(tcp)) + tcp)
    total = sum(words)
    total = (total & 0xFFFF) + (total >> 16)
    total = ~(total + (total >> 16)) & 0xFFFF
    return ip + tcp[:16] + struct.pack(">H", total) + tcp[18:]

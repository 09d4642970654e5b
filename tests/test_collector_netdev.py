"""netdev: packets and bytes of interfaces. The sources: known datagrams through a veth pair, the
interfaces' own counters (`ip -s link`), and TCP's OutSegs, which counts segments however few buffers they
are sent in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from agent_process import Agent
from network_namespaces import Host, pair

Start = Callable[..., Agent]
CONFIG = '[agent]\ninterval = "100ms"\n[collectors.netdev]\n'
SEND = """
import socket, sys
with socket.socket(int(sys.argv[1]), socket.SOCK_DGRAM) as one:
    for _ in range(int(sys.argv[4])):
        one.sendto(b"x" * int(sys.argv[3]), (sys.argv[2], 9))
"""
# RFC 792: type 8, its sum, no data
ECHO = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
    for _ in range(3):
        raw.sendto(bytes.fromhex("0800f7ff00000000"), (sys.argv[1], 0))
"""
ETHERNET, IPV4, IPV6, UDP, TCP = 14, 20, 40, 8, 32  # bytes of headers; TCP's with time stamps


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    """New ones: the collector has to see interfaces that came after it."""
    with pair() as made:
        yield made


def traffic(agent: Agent, host: Host, **wanted: Any) -> dict[str, tuple[int, int]]:
    """By direction: packets and bytes of a host's interface."""
    found: dict[str, tuple[int, int]] = {}
    wanted |= {"interface": host.interface, "netns": host.number}
    for row in agent.next_snapshot("netdev", "traffic")["rows"]:
        if all(row[name] == value for name, value in wanted.items()):
            packets, size = found.get(row["direction"], (0, 0))
            found[row["direction"]] = packets + row["packets"], size + row["bytes"]
    return found


@pytest.fixture
def agent(start_agent: Start) -> Agent:
    made = start_agent(CONFIG)
    made.next_snapshot("netdev", "traffic")
    return made


def test_datagrams_are_counted_at_both_ends_by_protocol(agent: Agent, hosts: tuple[Host, Host]) -> None:
    here, there = hosts
    here.start(SEND, 2, there.ipv4, 100, 211).end()
    here.start(SEND, 10, there.ipv6, 300, 57).end()
    four = 211, 211 * (ETHERNET + IPV4 + UDP + 100)
    six = 57, 57 * (ETHERNET + IPV6 + UDP + 300)
    for host, direction in ((here, "out"), (there, "in")):
        assert traffic(agent, host, l3_ethertype="ipv4", l4_protocol="udp") == {direction: four}
        assert traffic(agent, host, l3_ethertype="ipv6", l4_protocol="udp") == {direction: six}
    # Nobody has this address, and nobody answers: each datagram waits, and the host asks for it.
    here.start(SEND, 2, there.ipv4.rpartition(".")[0] + ".77", 100, 3).end()
    agent.wait_for(lambda: traffic(agent, here, l3_ethertype="arp").get("out", (0, 0))[0] >= 1)
    assert traffic(agent, here, l3_ethertype="ipv4", l4_protocol="udp") == {"out": four}


def test_the_sum_over_protocols_is_what_the_interface_counts(agent: Agent, hosts: tuple[Host, Host]) -> None:
    """Everything since the interface was made: the two counters differ by nothing."""
    here, there = hosts
    here.start(SEND, 2, there.ipv4, 1000, 100).end()
    here.start(ECHO, there.ipv4).end()

    def told(host: Host) -> dict[str, tuple[int, int]]:
        counted = host.link()["stats64"]
        return {
            direction: (counted[side]["packets"], counted[side]["bytes"])
            for direction, side in (("in", "rx"), ("out", "tx"))
        }

    for host in hosts:
        # Neighbour discovery may send a packet at any time.
        agent.wait_for(lambda host=host: told(host) == traffic(agent, host) == told(host))
    requests = 3, 3 * (ETHERNET + IPV4 + 8)
    assert traffic(agent, here, l4_protocol="icmp")["out"] == requests
    assert traffic(agent, there, l4_protocol="icmp")["in"] == requests


def test_buffers_of_many_segments_count_as_the_packets_on_the_wire(
    agent: Agent, hosts: tuple[Host, Host]
) -> None:
    here, there = hosts
    payload = 3_000_001
    server = there.start(
        "import socket, sys\nserver = socket.create_server((sys.argv[1], 0))\n"
        "print(server.getsockname()[1])\none, _ = server.accept()\ngot = 0\n"
        "while data := one.recv(1 << 20):\n    got += len(data)\nprint(got)\n",
        there.ipv4,
    )
    client = here.start(
        "import socket, sys\nwith socket.create_connection((sys.argv[1], int(sys.argv[2]))) as one:\n"
        f"    one.sendall(b'x' * {payload})\n",
        there.ipv4,
        server.line(),
    )
    client.end()
    assert server.end() == f"{payload}\n"
    sent = here.counters("Tcp")["OutSegs"]
    packets, size = traffic(agent, here, l4_protocol="tcp")["out"]
    # Longer than a frame may be: so they did travel in larger buffers.
    assert here.link()["stats64"]["tx"]["packets"] < packets
    assert packets == sent
    # The first packet, a SYN, has 8 more bytes of options.
    assert size == payload + packets * (ETHERNET + IPV4 + TCP) + 8
    assert traffic(agent, there, l4_protocol="tcp")["in"] == (packets, size)
    assert traffic(agent, there, l4_protocol="tcp")["out"][0] == there.counters("Tcp")["OutSegs"]

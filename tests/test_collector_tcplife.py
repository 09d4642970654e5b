"""tcplife: bytes and duration of connections that have ended. The sources: known bytes between two network
namespaces, what `ss -ti` says of the sockets before they are closed, and the clock around them."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from agent_process import Agent
from network_namespaces import Host, Script, named, pair

Start = Callable[..., Agent]

# Both wait for a line before each step: `send`, `end` (close) or `reset`.
SERVER = """
import socket, struct, sys
server = socket.create_server((sys.argv[1], 0), family=int(sys.argv[2]))
print(server.getsockname()[1])
one, _ = server.accept()
"""
CLIENT = """
import socket, struct, sys
one = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=60)
print("connected")
"""
STEPS = """
sends, takes = int(sys.argv[3]), int(sys.argv[4])
for line in sys.stdin:
    match line.strip():
        case "send":
            one.sendall(b"x" * sends)
        case "take":
            while takes:
                takes -= len(one.recv(min(takes, 1 << 20)))
        case "drain":
            try:
                assert one.recv(1) == b""
            except ConnectionResetError:
                pass
        case "reset":
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            one.close()
        case "close":
            one.close()
    print("done")
"""
CONFIG = '[agent]\ninterval = "100ms"\n[collectors.tcplife]\n'


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[Host, Host]]:
    with pair() as made:
        yield made


def do(script: Script, *steps: str) -> None:
    for step in steps:
        script.tell(step)
        assert script.line() == "done"


def connected(
    here: Host, there: Host, asks: int, answers: int, family: str = "ipv4"
) -> tuple[Script, Script, int]:
    """A client and a server with a connection between them, and the server's port."""
    number = 10 if family == "ipv6" else 2
    address = getattr(there, family)
    server = there.start(named("server", SERVER + STEPS), address, number, answers, asks)
    port = int(server.line())
    client = here.start(named("client", CLIENT + STEPS), address, port, asks, answers)
    assert client.line() == "connected"
    return client, server, port


def row_of(agent: Agent, pid: int) -> dict[str, Any]:
    """The only row of a process."""

    def found() -> list[dict[str, Any]]:
        rows = agent.next_snapshot("tcplife", "ended")["rows"]
        return [row for row in rows if row["pid"] == pid]

    (row,) = agent.wait_for(found)
    return dict(row)


def told_by_ss(host: Host, name: str) -> int:
    """A number of the one established connection of a namespace."""
    said = host.run("ss", "-tinH", "state", "established")
    return int((re.findall(rf"\b{name}:(\d+)", said) or ["0"])[0])


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
@pytest.mark.parametrize("first", ["client", "server"])
def test_bytes_and_duration_are_those_of_the_connection(
    start_agent: Start, hosts: tuple[Host, Host], first: str, family: str
) -> None:
    here, there = hosts
    agent = start_agent(CONFIG)
    agent.next_snapshot("tcplife", "ended")
    began = time.monotonic()
    client, server, port = connected(here, there, 300_001, 70_003, family)
    do(client, "send")
    connected_at = time.monotonic()
    do(server, "take", "send")
    do(client, "take")
    for host, sent, received in ((here, 300_001, 70_003), (there, 70_003, 300_001)):
        assert told_by_ss(host, "bytes_sent") - told_by_ss(host, "bytes_retrans") == sent
        assert told_by_ss(host, "bytes_received") == received
    time.sleep(0.3)
    shortest = time.monotonic() - connected_at
    one, other = (client, server) if first == "client" else (server, client)
    do(one, "close")
    do(other, "drain", "close")
    longest = time.monotonic() - began

    for script, peer, direction, sent, received in (
        (client, there, "out", 300_001, 70_003),
        (server, here, "in", 70_003, 300_001),
    ):
        row = row_of(agent, script.pid)
        assert row["comm"] == ("client" if script is client else "server")
        assert (row["address_ip"], row["port"], row["direction"]) == (getattr(peer, family), port, direction)
        assert (row["count"], row["sent"], row["received"]) == (1, sent, received)
        assert shortest <= row["total_ns"] / 1e9 <= longest
        (slot,) = [at for at, number in enumerate(row["slots"]) if number]
        assert row["slots"][slot] == 1
        assert 1 << slot <= row["total_ns"] // 1000 < 2 << slot
    client.end()
    server.end()


def test_a_connection_that_was_reset_belongs_to_whom_had_accepted_it(
    start_agent: Start, hosts: tuple[Host, Host]
) -> None:
    """The packet with the reset ends it, in nobody's context; the process closes it later."""
    here, there = hosts
    agent = start_agent(CONFIG)
    agent.next_snapshot("tcplife", "ended")
    client, server, port = connected(here, there, 5000, 10)
    do(client, "send")
    do(server, "take")
    do(client, "reset")
    do(server, "drain")
    at_reset = row_of(agent, client.pid)
    assert (at_reset["sent"], at_reset["received"]) == (5000, 0)
    assert not [row for row in agent.next_snapshot("tcplife", "ended")["rows"] if row["pid"] == server.pid]
    do(server, "close")
    row = row_of(agent, server.pid)
    assert (row["comm"], row["direction"], row["port"]) == ("server", "in", port)
    assert (row["count"], row["sent"], row["received"]) == (1, 0, 5000)
    client.end()
    server.end()


def test_what_is_sent_again_counts_once(start_agent: Start, hosts: tuple[Host, Host]) -> None:
    here, there = hosts
    agent = start_agent(CONFIG)
    agent.next_snapshot("tcplife", "ended")
    before = here.counters("Tcp")["RetransSegs"]
    client, server, _ = connected(here, there, 4000, 10)
    # The server's side gets everything and can't confirm it, until the client has sent it all again.
    there.run("ip", "route", "add", "blackhole", f"{here.ipv4}/32")
    do(client, "send")
    agent.wait_for(lambda: here.counters("Tcp")["RetransSegs"] > before)
    there.run("ip", "route", "delete", "blackhole", f"{here.ipv4}/32")
    do(server, "take")
    assert told_by_ss(here, "bytes_sent") > 4000
    do(client, "close")
    do(server, "drain", "close")
    assert row_of(agent, client.pid)["sent"] == row_of(agent, server.pid)["received"] == 4000
    client.end()
    server.end()


def test_attempts_that_fail_and_connections_from_before_are_left_out(
    start_agent: Start, hosts: tuple[Host, Host]
) -> None:
    here, there = hosts
    client, server, _ = connected(here, there, 10, 10)
    do(client, "send")
    agent = start_agent(CONFIG)
    agent.next_snapshot("tcplife", "ended")
    failed = here.start(
        f"import socket\nfor _ in range(3):\n    socket.socket().connect_ex(({there.ipv4!r}, 9))\n"
    )
    failed.end()
    do(client, "close")
    do(server, "take", "drain", "close")
    rows = agent.next_snapshot("tcplife", "ended")["rows"]
    assert not [row for row in rows if row["pid"] in (client.pid, server.pid, failed.pid)]
    client.end()
    server.end()

"""Two network namespaces with a veth pair between them: known traffic by known processes, and what the kernel
counts of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agent_process import PATIENCE

__all__ = ["Host", "Script", "named", "pair"]


class Script:
    """Python with a script, which can be talked to by its standard streams."""

    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.pid = self._process.pid

    def line(self) -> str:
        """The next line that it prints."""
        assert self._process.stdout is not None
        said = self._process.stdout.readline()
        if not said:
            self.end()
        return said.strip()

    def tell(self, line: object = "") -> None:
        """Write a line to it."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def end(self) -> str:
        """Close its input and wait for it to end well; what it printed since."""
        said, errors = self._process.communicate(timeout=60 * PATIENCE)
        assert self._process.returncode == 0, errors
        return said

    def kill(self) -> None:
        """End it, if it has not ended."""
        if self._process.returncode is None:
            self._process.kill()
            self._process.communicate()


class Host:
    """One of the two namespaces: its interface, its addresses, and processes in it."""

    def __init__(self, side: str, number: int) -> None:
        self.name = f"bpfleet-{side}-{os.getpid()}"
        self.interface = f"v{side}{os.getpid()}"[:15]
        # 198.18.0.0/15 is for tests of networks (RFC 2544), fd00::/8 is private.
        third = 1 + os.getpid() % 249  # 0 is left out of an IPv6 address that is written as usual
        self.ipv4 = f"198.18.{third}.{number}"
        self.ipv6 = f"fd00:b:{third:x}::{number}"
        self.scripts: list[Script] = []

    def __str__(self) -> str:
        return self.name

    def run(self, *command: str) -> str:
        """Run a command to its end; its output."""
        done = subprocess.run(
            self._inside(command), capture_output=True, text=True, timeout=60 * PATIENCE, check=False
        )
        assert done.returncode == 0, (command, done.stderr)
        return done.stdout

    def start(self, script: str, *arguments: object) -> Script:
        """Start Python with a script."""
        made = Script(self._inside([sys.executable, "-u", "-c", script, *map(str, arguments)]))
        self.scripts.append(made)
        return made

    def _inside(self, command: Any) -> list[str]:
        # nsenter and not `ip netns exec`: it execs, so that a process has the id of the one that was started.
        return ["nsenter", f"--net=/run/netns/{self.name}", *command]

    def knows(self, address: str, peer: Host) -> None:
        """Send to an address by way of `peer`, whether that has it or not."""
        link = peer.link()["address"]
        self.run("ip", "neigh", "replace", address, "lladdr", link, "dev", self.interface)

    def set(self, name: str, value: object) -> None:
        """Set a sysctl of the namespace."""
        self.run("sh", "-c", f"echo {value} > /proc/sys/{name.replace('.', '/')}")

    def counters(self, protocol: str) -> dict[str, int]:
        """What /proc/net/snmp says of a protocol, such as `Tcp`."""
        lines = [line.split() for line in self.run("cat", "/proc/net/snmp").splitlines()]
        names, values = [words[1:] for words in lines if words[0] == f"{protocol}:"]
        return dict(zip(names, map(int, values), strict=True))

    def link(self) -> dict[str, Any]:
        """What `ip` says of the interface: `address`, `stats64`."""
        (found,) = json.loads(self.run("ip", "-s", "-j", "link", "show", "dev", self.interface))
        return dict(found)

    @property
    def number(self) -> int:
        """The namespace's inode."""
        return Path(f"/run/netns/{self.name}").stat().st_ino


@contextmanager
def pair() -> Iterator[tuple[Host, Host]]:
    """Two hosts that can reach each other. Everything goes with the namespaces."""
    hosts = Host("a", 1), Host("b", 2)
    made = []
    try:
        for host in hosts:
            _ip("netns", "add", host.name)
            made.append(host.name)
        one, other = hosts
        _ip(
            *("link", "add", one.interface, "netns", one.name, "type", "veth"),
            *("peer", "name", other.interface, "netns", other.name),
        )
        for host in hosts:
            host.run("ip", "link", "set", "lo", "up")
            host.run("ip", "address", "add", f"{host.ipv4}/24", "dev", host.interface)
            host.run("ip", "address", "add", f"{host.ipv6}/64", "dev", host.interface, "nodad")
            host.set(f"net.ipv6.conf.{host.interface}.accept_dad", 0)
            host.run("ip", "link", "set", host.interface, "up")
        for host, peer in ((one, other), (other, one)):
            # Nobody has to ask first, and no packet waits for the answer.
            host.knows(peer.ipv4, peer)
            host.knows(peer.ipv6, peer)
        yield hosts
    finally:
        for host in hosts:
            for script in host.scripts:
                script.kill()
        for name in made:
            _ip("netns", "delete", name)


def named(name: str, script: str) -> str:
    """A script that calls its process so."""
    return f"open('/proc/self/comm', 'w').write({name!r})\n{script}"


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, timeout=60 * PATIENCE)

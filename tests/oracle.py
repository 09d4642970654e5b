"""The oracle: agents and an aggregator that are killed, stopped, cut off and filled up, and then counted.

Two network namespaces, joined by a veth pair: the aggregator and some agents in one, other agents in the
other. The aggregator's state is a small tmpfs. What every agent was promised is known to it alone; what is
stored is read from the store when all is over.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import zmq

from aggregator_process import AggregatorProcess
from bpfleet.keys import KeyPair, write_pair

STATE_MIB = 64
ADDRESS = "10.213.7.1"
PORT = 7788
AGENT_PROGRAM = Path(__file__).with_name("oracle_agent.py")
HOSTILE = str(Path(__file__).with_name("hostile_peers.py"))

Stored = Mapping[str, Counter[int]]
"""Of each agent, how often each number is stored."""


@dataclass(frozen=True)
class StoreUnderTest:
    """A store: its table in the configuration, and how what it holds is read."""

    table: str
    read: Callable[[Path], Stored]


def command(*words: str) -> None:
    """Run it; it must work."""
    subprocess.run(words, check=True, capture_output=True, timeout=20)


@dataclass
class Network:
    """Two namespaces, `a` for the aggregator and `b` beyond a cable that can be pulled."""

    name: str = field(default_factory=lambda: f"bo{os.getpid() % 100_000}")

    def __enter__(self) -> Network:
        a, b = self.a, self.b
        for one in (a, b):
            command("ip", "netns", "add", one)
            command("ip", "-n", one, "link", "set", "lo", "up")
        command("ip", "-n", a, "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", b)
        for one, address in ((a, ADDRESS), (b, "10.213.7.2")):
            command("ip", "-n", one, "address", "add", f"{address}/24", "dev", "cable")
            command("ip", "-n", one, "link", "set", "cable", "up")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for one in (self.a, self.b):
            command("ip", "netns", "delete", one)

    @property
    def a(self) -> str:
        return f"{self.name}a"

    @property
    def b(self) -> str:
        return f"{self.name}b"

    def cut(self) -> None:
        """Pull the cable: packets vanish, no connection is closed."""
        command("ip", "-n", self.b, "link", "set", "cable", "down")

    def mend(self) -> None:
        """Put it back."""
        command("ip", "-n", self.b, "link", "set", "cable", "up")


@contextmanager
def small_disk(place: Path) -> Iterator[None]:
    """A tmpfs at `place` that belongs to whom the aggregator runs as."""
    place.mkdir()
    command("mount", "-t", "tmpfs", "-o", f"size={STATE_MIB}m,mode=0750", "tmpfs", str(place))
    try:
        shutil.chown(place, "nobody")
        yield
    finally:
        command("umount", "-l", str(place))


class OracleAgent:
    """One agent's process, started anew after a kill."""

    def __init__(self, kind: str, namespace: str, directory: Path, keys: list[str]) -> None:
        self.kind, self.id = kind, str(uuid.uuid4())
        self._directory, self._namespace, self._keys = directory, namespace, keys
        directory.mkdir(parents=True)
        self.start()

    def start(self) -> None:
        """Begin, where it was."""
        host = ADDRESS if self._namespace.endswith("b") else "127.0.0.1"
        words = [self.kind, f"tcp://{host}:{PORT}", str(self._directory), self.id, *self._keys]
        self.process = subprocess.Popen(
            ["ip", "netns", "exec", self._namespace, sys.executable, str(AGENT_PROGRAM), *words],
            stdout=subprocess.DEVNULL,
        )

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait(20)

    def finish(self) -> None:
        """Let it deliver all that it has."""
        self.process.send_signal(signal.SIGTERM)

    def finished(self, seconds: float) -> bool:
        """Whether it came to its end by itself, in that time."""
        try:
            return self.process.wait(seconds) == 0
        except subprocess.TimeoutExpired:
            self.kill()
            return False

    def promised(self) -> set[int]:
        """The records that must be stored."""
        if self.kind == "sink":
            return self._numbers("delivered")
        return self.made()

    def made(self) -> set[int]:
        """The records that may be stored."""
        if self.kind == "sink":
            return self._numbers("made")
        import sqlite3

        database = sqlite3.connect(self._directory / "spool.sqlite")
        found = {number for (number,) in database.execute("SELECT number FROM made")}
        assert database.execute("SELECT count(*) FROM pending").fetchone() == (0,), "not all is acknowledged"
        database.close()
        return found

    def _numbers(self, name: str) -> set[int]:
        return {int(line) for line in (self._directory / name).read_text().splitlines() if line.strip()}


@dataclass
class Oracle:
    """Faults by chance, from `seed`; `counts` says what was done."""

    directory: Path
    store: StoreUnderTest
    seed: int
    encrypted: bool
    counts: Counter[str] = field(default_factory=Counter)

    def run(self, kills: int, agents: int = 4) -> None:
        """Until so many processes were killed; raises AssertionError where a promise was not kept."""
        self.chance = random.Random(self.seed)
        with Network() as self.network, small_disk(self.directory / "aggregator"):
            self._start(agents)
            try:
                while self.counts["kill"] < kills:
                    time.sleep(self.chance.uniform(0.2, 0.8))
                    self.chance.choice(self._faults())()
                self._let_finish()
                stored = self.store.read(self.directory / "aggregator")
            finally:
                for agent in self.agents:
                    if agent.process.poll() is None:
                        agent.kill()
                if self.aggregator.process.poll() is None:
                    self.aggregator.kill()
        self._judge(stored)

    def _start(self, agents: int) -> None:
        settings, keys = 'curve = "off"', list[list[str]]()
        if self.encrypted:
            server, secret = (key.decode() for key in zmq.curve_keypair())
            write_pair(self.directory / "aggregator.key", KeyPair(server, secret))
            settings = f'key = "{self.directory}/aggregator.key"\nkeys = "{self.directory}/agent-keys"'
            pairs = [[key.decode() for key in zmq.curve_keypair()] for _ in range(agents + 1)]
            keys = [[server, *pair] for pair in pairs]
            (self.directory / "agent-keys").write_text("".join(f"{public} *\n" for public, _ in pairs))
            self.admitted = keys.pop()
        self.aggregator = AggregatorProcess(
            self.directory,
            settings,
            store=self.store.table,
            bind=f"tcp://0.0.0.0:{PORT}",
            prefix=["ip", "netns", "exec", self.network.a],
        )
        # The real sink in one of two; the others say the protocol by themselves, repeats and all.
        self.agents = [
            OracleAgent(
                "spool" if n % 2 else "sink",
                self.network.a if n % 4 < 2 else self.network.b,
                self.directory / f"agent{n}",
                keys[n] if keys else [],
            )
            for n in range(agents)
        ]

    # ---- faults

    def _faults(self) -> list[Callable[[], None]]:
        return [
            self._kill_agent,
            self._kill_aggregator,
            self._kill_both,
            self._stop_aggregator,
            self._stop_agent,
            self._cut_network,
            self._fill_disk,
            self._be_hostile,
        ]

    def _some_agent(self) -> OracleAgent:
        return self.chance.choice(self.agents)

    def _kill_agent(self) -> None:
        agent = self._some_agent()
        agent.kill()
        agent.start()
        self.counts["kill"] += 1

    def _kill_aggregator(self) -> None:
        self.aggregator.kill()
        self.counts["kill"] += 1
        time.sleep(self.chance.uniform(0, 1))
        self.aggregator.restart()

    def _kill_both(self) -> None:
        agent = self._some_agent()
        agent.kill()
        self.aggregator.kill()
        self.counts["kill"] += 2
        agent.start()
        self.aggregator.restart()

    def _stop_aggregator(self) -> None:
        self._stop(self.aggregator.process)
        self.counts["aggregator hung"] += 1

    def _stop_agent(self) -> None:
        self._stop(self._some_agent().process)
        self.counts["agent hung"] += 1

    def _stop(self, process: subprocess.Popen[str]) -> None:
        process.send_signal(signal.SIGSTOP)
        time.sleep(self.chance.uniform(0.5, 3))
        process.send_signal(signal.SIGCONT)

    def _cut_network(self) -> None:
        self.network.cut()
        time.sleep(self.chance.uniform(0.5, 3))
        self.network.mend()
        self.counts["network cut"] += 1

    def _fill_disk(self) -> None:
        ballast = self.directory / "aggregator" / "ballast"
        try:
            with ballast.open("wb", 0) as file:
                while file.write(bytes(1 << 16)):
                    pass
        except OSError:
            pass
        time.sleep(self.chance.uniform(0.5, 3))
        ballast.unlink()
        self.counts["disk full"] += 1

    def _be_hostile(self) -> None:
        """In a process of the aggregator's namespace."""
        words = self.admitted if self.encrypted else []
        done = subprocess.run(
            [
                "ip",
                "netns",
                "exec",
                self.network.a,
                sys.executable,
                HOSTILE,
                str(PORT),
                self._some_agent().id,
                *words,
            ],
            check=True,
            timeout=60,
            capture_output=True,
            text=True,
        )
        self.counts["hostile peer"] += 1
        self.counts["refused frames"] += int(done.stdout)

    # ---- the end

    def _let_finish(self) -> None:
        for agent in self.agents:
            agent.finish()
        late = [agent.id for agent in self.agents if not agent.finished(60)]
        assert not late, f"could not deliver: {late}\n{self.aggregator.said}"
        assert self.aggregator.stop() == 0, self.aggregator.said

    def _judge(self, stored: Stored) -> None:
        assert "Traceback" not in self.aggregator.said, self.aggregator.said
        for agent in self.agents:
            found, promised = stored.get(agent.id, Counter()), agent.promised()
            assert promised, f"{agent.kind} agent {agent.id} delivered nothing"
            lost = promised - found.keys()
            repeated = [number for number, times in found.items() if times != 1]
            assert not lost, f"{agent.kind} agent {agent.id}: {len(lost)} of {len(promised)} lost"
            assert not repeated, f"{agent.kind} agent {agent.id}: {len(repeated)} stored more than once"
            assert found.keys() <= agent.made()
            assert "evil" not in stored
            self.counts["promised"] += len(promised)
            self.counts["stored"] += len(found)

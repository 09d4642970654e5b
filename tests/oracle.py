"""The oracle: agents, an aggregator and a store, killed, stopped, cut off and filled up, and then counted.

Two network namespaces, joined by a veth pair: the aggregator, its store and some agents in one, other agents
in the other. The aggregator's and the agents' states are on small disks. What every agent was promised is
known to it alone; what is stored is read from the store when all is over.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from time import sleep

import zmq

from aggregator_process import AggregatorProcess
from bpfleet.keys import KeyPair, write_pair
from clickhouse_servers import ServerProcess
from oracle_agent import clock_step
from oracle_agents import OracleAgent
from oracle_faults import PORT, Faults
from oracle_places import ADDRESS, Network, small_disk

Stored = Mapping[str, Counter[int]]
"""Of each agent, how often each number is stored."""

_WINDOW = "\nwindow = 64"
"""So that a store whose commits take long, on a busy machine, keeps up with the agents."""
KILLS = ("agent killed", "aggregator killed", "both killed", "store's server killed", "shard killed")
ALWAYS = (
    *KILLS[:3],
    "aggregator hung",
    "agent hung",
    "network cut",
    "aggregator's disk full",
    "agents' disk full",
    "spool damaged",
    "clock stepped",
    "seq replayed",
    *(
        f"refused: {name}"
        for name in (
            "empty frame",
            "random bytes",
            "decompression bomb",
            "decompression bomb without a size",
            "endless arrays",
            "another version",
            "oversized frame",
            "oversized message",
            "random message",
            "message of many parts",
            "data without hello",
        )
    ),
)
"""What happens in every run, and is in its counts."""
WITH_KEYS = ("refused: unknown key", "refused: no key", "refused: wrong key")
WITHOUT_KEYS = ("refused: duplicate agent id",)
WITH_SHARDS = ("shard killed", "shard hung")
WITH_A_SERVER = (KILLS[3], "store's server hung")


@dataclass(frozen=True)
class StoreUnderTest:
    """A store: its table in the configuration, and how what it holds is read."""

    table: str
    read: Callable[[Oracle], Stored]
    has_server: bool = False


@dataclass
class Oracle:
    """Faults by chance, from `seed`; `counts` says what was done."""

    directory: Path
    store: StoreUnderTest
    seed: int
    encrypted: bool
    shards: int = 1
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def kills(self) -> int:
        """Processes that were killed."""
        return sum(self.counts[name] for name in KILLS) + self.counts["both killed"]

    @property
    def missing(self) -> list[str]:
        """What should have happened, and is not in the counts."""
        wanted = [*ALWAYS, *(WITH_KEYS if self.encrypted else WITHOUT_KEYS)]
        wanted += list(WITH_A_SERVER) * self.store.has_server + list(WITH_SHARDS) * (self.shards > 1)
        return [name for name in wanted if not self.counts[name]]

    def run(self, kills: int, agents: int = 4) -> None:
        """Until so many processes were killed, and all has happened once.

        Raises AssertionError where a promise was not kept.
        """
        chance = random.Random(self.seed)
        with ExitStack() as places:
            self.network = places.enter_context(Network())
            # A server's merges need room besides.
            room = 400 if self.store.has_server else 64
            central = places.enter_context(small_disk(self.directory / "aggregator", room, "nobody"))
            of_agents = places.enter_context(small_disk(self.directory / "agents-disk", 64, "root"))
            places.callback(self._end)
            self.agents: list[OracleAgent] = []
            self.aggregator: AggregatorProcess | None = None
            self.server: ServerProcess | None = None
            self._start(agents, of_agents)
            assert self.aggregator is not None
            disks = {"aggregator's disk": central, "agents' disk": of_agents}
            faults = Faults(
                chance,
                self.counts,
                self.network,
                self.aggregator,
                self.agents,
                self.server,
                disks,
                self.admitted,
                self.shards,
            )
            while self.kills < kills or not faults.rounds:
                for fault in faults.round():
                    sleep(chance.uniform(0.2, 0.8))
                    fault()
            self._let_finish()
            stored = self.store.read(self)
        self._judge(stored)

    def _start(self, agents: int, of_agents: Path) -> None:
        inside = self.network.inside(self.network.a)
        settings, keys = 'curve = "off"', list[list[str]]()
        self.admitted: list[str] = []
        if self.encrypted:
            server, secret = (key.decode() for key in zmq.curve_keypair())
            write_pair(self.directory / "aggregator.key", KeyPair(server, secret))
            settings = f'key = "{self.directory}/aggregator.key"\nkeys = "{self.directory}/agent-keys"'
            pairs = [[key.decode() for key in zmq.curve_keypair()] for _ in range(agents + 1)]
            keys = [[server, *pair] for pair in pairs]
            (self.directory / "agent-keys").write_text("".join(f"{public} *\n" for public, _ in pairs))
            self.admitted = keys.pop()
        table = self.store.table
        if self.store.has_server:
            self.server = ServerProcess(self.directory / "aggregator" / "server", inside)
            # What was merged goes soon: the disk is small.
            self.server.configure(" <merge_tree><old_parts_lifetime>5</old_parts_lifetime></merge_tree>\n")
            self.server.start()
            table = table.format(url=self.server.url)
        self.aggregator = AggregatorProcess(
            self.directory,
            settings + _WINDOW,
            store=table,
            bind=f"tcp://0.0.0.0:{PORT}",
            prefix=inside,
            shards=self.shards,
        )
        for n in range(agents):
            # The real sink in one of two; the others say the protocol by themselves, repeats and all.
            kind, far = "spool" if n % 2 else "sink", n % 4 >= 2
            prefix = self.network.inside(self.network.b if far else self.network.a)
            endpoint = f"tcp://{ADDRESS if far else '127.0.0.1'}:{PORT}"
            own = keys[n] if keys else []
            self.agents.append(
                OracleAgent(kind, prefix, endpoint, self.directory / f"agent{n}", of_agents, own)
            )

    # ---- the end

    def _end(self) -> None:
        for agent in self.agents:
            if agent.process.poll() is None:
                agent.kill()
        if self.aggregator is not None and self.aggregator.process.poll() is None:
            self.aggregator.kill()
        if self.server is not None:
            self.server.kill()

    def _let_finish(self) -> None:
        assert self.aggregator is not None
        for agent in self.agents:
            agent.finish()
        late = [(agent.kind, agent.id) for agent in self.agents if not agent.finished(150)]
        assert not late, f"could not deliver: {late}\n{self.aggregator.said}"
        assert self.aggregator.stop() == 0, self.aggregator.said

    def _judge(self, stored: Stored) -> None:
        assert self.aggregator is not None
        assert "Traceback" not in self.aggregator.said, self.aggregator.said
        assert stored.keys() <= {agent.id for agent in self.agents}
        for agent in self.agents:
            found, promised = stored.get(agent.id, Counter()), agent.promised()
            assert promised, f"{agent.kind} agent {agent.id} delivered nothing"
            lost = promised - found.keys()
            repeated = [
                number for number, times in found.items() if times != 1 and number not in agent.unsure
            ]
            assert not lost, f"{agent.kind} agent {agent.id}: {len(lost)} of {len(promised)} lost"
            assert not repeated, f"{agent.kind} agent {agent.id}: {len(repeated)} stored more than once"
            assert found.keys() <= agent.made()
            self.counts["promised"] += len(promised)
            self.counts["stored"] += len(found)
            self.counts["lost with a damaged spool"] += len(agent.unsure - found.keys())
            self.counts["clock stepped"] += sum(1 for number in found if clock_step(number))
            self.counts["seq replayed"] += agent.replayed()

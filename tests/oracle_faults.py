"""What the oracle does to agents, aggregator, store, network and disks. Each has its name in the counts."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from aggregator_process import AggregatorProcess
from clickhouse_servers import ServerProcess
from oracle_agents import OracleAgent
from oracle_places import Network, fill

__all__ = ["PORT", "Faults"]

PORT = 7788
HOSTILE = str(Path(__file__).with_name("hostile_peers.py"))


@dataclass
class Faults:
    """One set of processes, and all that can happen to them."""

    chance: random.Random
    counts: Counter[str]
    network: Network
    aggregator: AggregatorProcess
    agents: list[OracleAgent]
    server: ServerProcess | None
    """The store's, where it has one."""
    disks: dict[str, Path]
    keys: list[str]
    """Those of an agent that is none of ours; empty without encryption."""
    shards: int
    """Of the aggregator; 1: it has none."""

    rounds: int = 0

    def round(self) -> list[Callable[[], None]]:
        """Every fault once, in some order."""
        self.rounds += 1
        faults: list[Callable[[], None]] = [
            self.kill_agent,
            self.kill_aggregator,
            self.kill_both,
            self.stop_aggregator,
            self.stop_agent,
            self.cut_network,
            *(partial(self.fill_disk, name) for name in self.disks),
            self.damage_spool,
            self.be_hostile,
        ]
        if self.server is not None:
            faults += [self.kill_server, self.stop_server]
        if self.shards > 1:
            faults += [self.kill_shard, self.stop_shard]
        return self.chance.sample(faults, len(faults))

    def some(self, kind: str = "") -> OracleAgent:
        return self.chance.choice([one for one in self.agents if kind in ("", one.kind)])

    def a_shard(self) -> int:
        """The pid of one of them, once all are there."""
        return self.chance.choice(self.aggregator.shards(self.shards))

    def pause(self, longest: float = 2.0) -> None:
        time.sleep(self.chance.uniform(0.3, longest))

    # ---- killed

    def kill_agent(self) -> None:
        agent = self.some()
        agent.kill()
        agent.start()
        self.counts["agent killed"] += 1

    def kill_aggregator(self) -> None:
        self.aggregator.kill()
        self.counts["aggregator killed"] += 1
        self.pause(1)
        self.aggregator.restart()

    def kill_both(self) -> None:
        agent = self.some()
        agent.kill()
        self.aggregator.kill()
        self.counts["both killed"] += 1
        agent.start()
        self.aggregator.restart()

    def kill_shard(self) -> None:
        os.kill(self.a_shard(), signal.SIGKILL)
        self.counts["shard killed"] += 1

    def kill_server(self) -> None:
        assert self.server is not None
        self.server.kill()
        self.counts["store's server killed"] += 1
        self.pause()
        self.server.start()

    # ---- hung, without closing anything

    def stop_aggregator(self) -> None:
        self._stop(self.aggregator.process, "aggregator hung")

    def stop_agent(self) -> None:
        self._stop(self.some().process, "agent hung")

    def stop_shard(self) -> None:
        shard = self.a_shard()
        os.kill(shard, signal.SIGSTOP)
        self.pause(3)
        os.kill(shard, signal.SIGCONT)
        self.counts["shard hung"] += 1

    def stop_server(self) -> None:
        assert self.server is not None
        self.server.pause(True)
        self.pause()
        self.server.pause(False)
        self.counts["store's server hung"] += 1

    def _stop(self, process: subprocess.Popen[Any], name: str) -> None:
        process.send_signal(signal.SIGSTOP)
        self.pause(3)
        process.send_signal(signal.SIGCONT)
        self.counts[name] += 1

    # ---- around them

    def cut_network(self) -> None:
        self.network.cut()
        self.pause(3)
        self.network.mend()
        self.counts["network cut"] += 1

    def fill_disk(self, name: str) -> None:
        fill(self.disks[name], self.chance.uniform(0.5, 2))
        self.counts[f"{name} full"] += 1

    def damage_spool(self) -> None:
        agent = self.some("sink")
        agent.kill()
        self.counts["spool damaged"] += agent.damage_spool()
        agent.start()

    def be_hostile(self) -> None:
        """In a process of the aggregator's namespace. What was sent, and refused each time, it tells."""
        victim = self.some("spool")
        words = [sys.executable, HOSTILE, str(PORT), victim.id, victim.spool, *self.keys]
        done = subprocess.run(
            [*self.network.inside(self.network.a), *words], timeout=200, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr + self.aggregator.said
        self.counts.update({f"refused: {name}": times for name, times in json.loads(done.stdout).items()})

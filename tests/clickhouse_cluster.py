"""A real cluster for tests: Debian's ZooKeeper and several of its ClickHouse servers, all on loopback."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from bpfleet.errors import StoreError
from clickhouse_servers import DIES_WITH_US, Place, ServerProcess, free_port, in_memory
from clickhouse_writer import record
from test_clickhouse_delivery import counted, wanted

_ZOOKEEPER = """tickTime=500
dataDir={folder}/data
clientPort={port}
clientPortAddress=127.0.0.1
maxClientCnxns=0
admin.enableServer=false
"""
# A killed server may have written a part that ZooKeeper was not told of. In a table of few rows that is most,
# and such a server refuses to start until it is told that this is no mistake (docs/clickhouse.md).
_CLUSTER = """ <interserver_http_host>127.0.0.1</interserver_http_host>
 <interserver_http_port>{interserver}</interserver_http_port>
 <zookeeper><node><host>127.0.0.1</host><port>{zookeeper}</port></node>
  <session_timeout_ms>4000</session_timeout_ms></zookeeper>
 <merge_tree><replicated_max_ratio_of_wrong_parts>1</replicated_max_ratio_of_wrong_parts></merge_tree>
 <distributed_ddl><path>/clickhouse/task_queue/ddl</path></distributed_ddl>
 <remote_servers><fleet>{shards}</fleet></remote_servers>
 <macros><shard>{shard}</shard><replica>{replica}</replica></macros>
"""


class ZookeeperProcess:
    """ZooKeeper with a folder and a port of its own."""

    def __init__(self, folder: Path) -> None:
        (folder / "data").mkdir(parents=True)
        self.port = free_port()
        self._config = folder / "zoo.cfg"
        self._config.write_text(_ZOOKEEPER.format(folder=folder, port=self.port))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when it answers."""
        words = ["java", "-Xmx256m", "-cp", "/usr/share/java/zookeeper.jar"]
        self._process = subprocess.Popen(
            [*DIES_WITH_US, *words, "org.apache.zookeeper.server.ZooKeeperServerMain", str(self._config)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 60
        while not self._answers():
            assert self._process.poll() is None, "ZooKeeper ended"
            assert time.monotonic() < deadline, "ZooKeeper does not answer"
            time.sleep(0.1)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 2) as asking:
                asking.sendall(b"srvr")
                return b"Mode: standalone" in asking.recv(4096)
        except OSError:
            return False

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(30)
            self._process = None


class Cluster:
    """Servers that are called `fleet` together: `shards` of `replicas` each."""

    def __init__(self, folder: Path, shards: int, replicas: int) -> None:
        self.zookeeper = ZookeeperProcess(folder / "zookeeper")
        self.servers = [ServerProcess(folder / f"server{n}") for n in range(shards * replicas)]
        groups = [self.servers[n * replicas : (n + 1) * replicas] for n in range(shards)]
        listed = "".join(
            f"<shard><internal_replication>true</internal_replication>{''.join(map(_replica, group))}</shard>"
            for group in groups
        )
        for n, server in enumerate(self.servers):
            server.configure(
                _CLUSTER.format(
                    interserver=free_port(),
                    zookeeper=self.zookeeper.port,
                    shards=listed,
                    shard=n // replicas + 1,
                    replica=f"r{n}",
                )
            )

    def start(self) -> None:
        """Returns when all answer."""
        self.zookeeper.start()
        for server in self.servers:
            server.start()

    def kill(self) -> None:
        """End all."""
        for server in self.servers:
            server.kill()
        self.zookeeper.kill()

    def places(self, state: Path, **settings: Any) -> list[Place]:
        """One database, as an aggregator beside each server has it."""
        made = [Place(server, None, state) for server in self.servers]
        for one in made:
            one.database = made[0].database
            one.defaults = {"cluster": "fleet", "replicated": True, **settings}
        return made


def _replica(server: ServerProcess) -> str:
    return f"<replica><host>127.0.0.1</host><port>{server.tcp}</port></replica>"


def running(shards: int, replicas: int) -> Iterator[Cluster]:
    """A cluster, for a fixture."""
    with in_memory() as folder:
        cluster = Cluster(folder, shards, replicas)
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.kill()


def places_of(cluster: Cluster, state: Path) -> Iterator[list[Place]]:
    """A database of a cluster as seen from each server, for a fixture. Who was killed is started again."""
    made = cluster.places(state)
    yield made
    for server in cluster.servers:
        if not server.is_running:
            server.start()
    for one in made:
        # A server that was just started may be slow to drop what it is still fetching.
        with suppress(StoreError):
            one.close()


def within(seconds: float, what: Callable[[], bool]) -> None:
    """Replication and servers that come back take a moment."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def eventually(place: Place, sql: str, answer: list[dict[str, Any]]) -> None:
    """That server's answer, once what it lacks has followed."""
    within(60, lambda: place.ask(sql) == answer)


def same_everywhere(places: Sequence[Place], records: int) -> None:
    """Each server shows each record once."""

    def agree() -> bool:
        try:
            return all(counted(place) == wanted(records) for place in places)
        except StoreError:  # a view that another aggregator is just making anew
            return False

    within(60, agree)


def some(first: int, last: int) -> list[Any]:
    """Those records of the tests' usual spool."""
    return [record(number) for number in range(first, last + 1)]

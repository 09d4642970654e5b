"""A cluster: what it consists of, and statements that all of its servers are to carry out.

Statements ON CLUSTER wait in ZooKeeper until each server has done them, in one order for all. A server that
is down does them when it is back, so it must not keep the others from going on: what counts is that ours has
done it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bpfleet.errors import ConfigError
from bpfleet_aggregator.stores.clickhouse.failures import TIMED_OUT, Refused
from bpfleet_aggregator.stores.clickhouse.literals import text
from bpfleet_aggregator.stores.clickhouse.server import Server, rows_of
from bpfleet_aggregator.stores.clickhouse.settings import ClickhouseSettings

__all__ = ["Everywhere", "Shape", "shape_of"]

_PATIENCE, _LITTLE_PATIENCE = 10, 1
"""Seconds to wait for all servers; and while one is known not to answer."""
_REMEMBERED = 60.0
_OURS = 30.0
_A_MOMENT = 0.05


@dataclass(frozen=True, slots=True)
class Shape:
    """What a cluster consists of; one server is one shard of one replica."""

    shards: int = 1
    replicas: int = 1

    @property
    def is_spread(self) -> bool:
        """Whether an agent's rows are on one of several shards."""
        return self.shards > 1


def shape_of(server: Server, settings: ClickhouseSettings) -> Shape:
    """Ask the server; raises ConfigError where it does not know the cluster, or it can't work as set."""
    if settings.cluster is None:
        return Shape()
    (found,) = rows_of(
        server,
        "SELECT toUInt32(uniqExact(shard_num)) AS shards, toUInt32(max(replica_num)) AS replicas"
        f" FROM system.clusters WHERE cluster = {text(settings.cluster)}",
    )
    shape = Shape(int(str(found["shards"])), int(str(found["replicas"])))
    where = f"[store.clickhouse] cluster = {settings.cluster!r}"
    if shape.shards == 0:
        raise ConfigError(
            "the server knows no cluster of that name",
            where=where,
            remedy="`cluster` names a <remote_servers> entry of the server, which needs ZooKeeper for it",
        )
    if shape.replicas > 1 and not settings.replicated:
        raise ConfigError(
            f"its shards have {shape.replicas} replicas, and tables would not be replicated: each would have"
            " rows that the others lack",
            where=where,
            remedy="set replicated = true",
        )
    return shape


class Everywhere:
    """Runs statements that name the cluster, or, where there is none, just runs them."""

    def __init__(self, server: Server, settings: ClickhouseSettings, note: Callable[[str], None]) -> None:
        self._server = server
        self._has_cluster = settings.cluster is not None
        self._note = note
        self._lagging_until = 0.0

    def run(
        self, sql: str, is_done: Callable[[], bool], settings: Mapping[str, object] | None = None
    ) -> None:
        """Until all servers have done it, or for a while; `is_done` tells whether ours has.

        Raises Refused where a server can't do it, or ours has not in time.
        """
        if not self._has_cluster:
            self._server.run(sql, settings)
            return
        lagging = time.monotonic() < self._lagging_until
        patience = _LITTLE_PATIENCE if lagging else _PATIENCE
        try:
            self._server.run(sql, {**(settings or {}), "distributed_ddl_task_timeout": patience})
        except Refused as refused:
            if refused.code not in TIMED_OUT:
                raise
            self._wait_for_ours(is_done, refused)
            if not lagging:
                self._note("not all servers of the cluster answer; they follow when they are back")
            self._lagging_until = time.monotonic() + _REMEMBERED
        else:
            self._lagging_until = 0.0

    def _wait_for_ours(self, is_done: Callable[[], bool], refused: Refused) -> None:
        deadline = time.monotonic() + _OURS
        while not is_done():
            if time.monotonic() > deadline:
                raise refused
            time.sleep(_A_MOMENT)

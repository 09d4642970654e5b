"""A database in ClickHouse as earlier releases left it: two kinds of losses, each in a column of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bpfleet.stores import Received
from bpfleet_aggregator.stores.clickhouse.store import ClickhouseStore
from bpfleet_aggregator.stores.clickhouse.tables import SNAPSHOTS
from clickhouse_servers import Place
from fleet_records import GLOBALS, received, snapshot

__all__ = ["UPGRADED", "upgrade"]


def as_of_an_older_release(places: Sequence[Place], store: ClickhouseStore) -> None:
    """No column `losses`, and no views; `places` are servers with a table that is no copy of another's."""
    tables = store._definitions.tables
    for place in places:
        server = place.raw()
        server.run(f"ALTER TABLE {tables.named(SNAPSHOTS)} DROP COLUMN losses")
        for view in ("agents", "collectors", "losses", "snapshots"):
            server.run(f"DROP TABLE {tables.named(view)}")
        if tables.is_spread:
            server.run(f"DROP TABLE {tables.data(SNAPSHOTS)}")
        server.close()
    if tables.is_spread:
        server = places[0].raw()
        server.run(tables.create_spread(SNAPSHOTS))
        server.close()


def losing(seq: int, losses: Mapping[str, int]) -> list[Received]:
    return received([snapshot(GLOBALS, [], seq=seq, seconds=20 + seq, losses=losses)], first=seq)


UPGRADED: Mapping[str, list[dict[str, Any]]] = {
    "SELECT seq, losses, failed_insert, truncated FROM snapshots ORDER BY seq": [
        {"seq": 1, "losses": '{"failed_insert":5,"truncated":2}', "failed_insert": 5, "truncated": 2},
        {"seq": 2, "losses": '{"truncated":3}', "failed_insert": None, "truncated": 3},
        {"seq": 3, "losses": None, "failed_insert": 0, "truncated": None},
        {"seq": 4, "losses": '{"failed_insert":5,"lost":7}', "failed_insert": 5, "truncated": None},
    ],
    "SELECT reason, sum(count) AS n FROM losses GROUP BY reason ORDER BY reason": [
        {"reason": "failed_insert", "n": 5},
        {"reason": "lost", "n": 7},
        {"reason": "truncated", "n": 5},
    ],
    "SELECT losses FROM agents": [{"losses": 17}],
}
"""What is to be answered after `upgrade`."""


def upgrade(places: Sequence[Place]) -> None:
    """Store three records as an older release did, and one more as this one does."""
    store = places[0].store()
    store.commit(losing(1, {"failed_insert": 5, "truncated": 2, "no_room": 9}))
    store.commit(losing(2, {"truncated": 3, "no_room": 9}))
    store.commit(losing(3, {"failed_insert": 0}))
    as_of_an_older_release(places, store)
    places[0].store().commit(losing(4, {"failed_insert": 5, "lost": 7}))

"""The store `clickhouse`: a fleet's records in a ClickHouse server or cluster. docs/clickhouse.md says how.

server       one server over HTTP        native, native_read   its column format, to and from Arrow
dialect      what a server can do        tables, registry, definitions   what is made in it
rows, marks  a batch as INSERTs          views, rate_view, quantile      what questions see
store, retention, reader                 the contract of bpfleet.stores
"""

from __future__ import annotations

from collections.abc import Sequence

from bpfleet import StoreType, hookimpl
from bpfleet_aggregator.stores.clickhouse.reader import open_reader
from bpfleet_aggregator.stores.clickhouse.settings import ClickhouseSettings
from bpfleet_aggregator.stores.clickhouse.store import open_store

__all__ = ["bpfleet_stores"]


@hookimpl
def bpfleet_stores() -> Sequence[StoreType]:
    """The store type `clickhouse`."""
    return [
        StoreType(
            name="clickhouse",
            help="a ClickHouse server or cluster, for a fleet beyond one machine",
            open=open_store,
            read=open_reader,
            settings=ClickhouseSettings,
        )
    ]

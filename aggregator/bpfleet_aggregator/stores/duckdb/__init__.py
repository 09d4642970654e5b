"""The store `duckdb`: partition files in a folder. One aggregator writes, and answers questions."""

from __future__ import annotations

from bpfleet import StoreType, hookimpl
from bpfleet_aggregator.stores.duckdb.reader import open_reader
from bpfleet_aggregator.stores.duckdb.settings import DuckdbSettings
from bpfleet_aggregator.stores.duckdb.store import DuckdbStore

__all__ = ["DuckdbSettings", "DuckdbStore", "bpfleet_stores", "open_reader"]


@hookimpl
def bpfleet_stores() -> list[StoreType]:
    """The embedded store."""
    return [
        StoreType(
            name="duckdb",
            help="Files of an embedded database, beside the aggregator.",
            open=DuckdbStore,
            read=open_reader,
            settings=DuckdbSettings,
        )
    ]

"""What is too old, or too much, goes: whole days at a time, which costs the server next to nothing."""

from __future__ import annotations

import time
from datetime import UTC, date, datetime, timedelta

from bpfleet.stores import StoreContext
from bpfleet_aggregator.stores.clickhouse.cluster import Everywhere
from bpfleet_aggregator.stores.clickhouse.literals import text
from bpfleet_aggregator.stores.clickhouse.server import Server, rows_of
from bpfleet_aggregator.stores.clickhouse.settings import ClickhouseSettings
from bpfleet_aggregator.stores.clickhouse.tables import GAPS, MARKS, Tables

__all__ = ["Retention"]

_DAY = 86400.0


class Retention:
    """Drops partitions of the tables that are partitioned by day."""

    def __init__(
        self,
        server: Server,
        everywhere: Everywhere,
        settings: ClickhouseSettings,
        tables: Tables,
        context: StoreContext,
    ) -> None:
        self._server = server
        self._everywhere = everywhere
        self._settings = settings
        self._tables = tables
        self._note = context.note

    def apply(self) -> None:
        """Days before `retention` go; then, while the tables take more than `max_size`, the oldest day."""
        if self._settings.retention is None and self._settings.max_size is None:
            return
        days = self._days()
        old = self._too_old(days)
        for day in old:
            self._drop(day, days.pop(day), "older than `retention`")
        if self._settings.max_size is not None:
            total = sum(size for tables in days.values() for _, _, size in tables)
            for day in sorted(days)[:-1]:  # today's stays, whatever it takes
                if total <= self._settings.max_size:
                    break
                total -= sum(size for _, _, size in days[day])
                self._drop(day, days[day], "beyond `max_size`")
        self._drop_gaps_and_marks()

    def _days(self) -> dict[date, list[tuple[str, str, int]]]:
        """(table, partition, bytes) of each day; of several shards the one that has most counts."""
        found = rows_of(
            self._server,
            "SELECT name, partition, max(bytes) AS size FROM (SELECT hostName() AS on_host, table AS name,"
            f" partition, sum(bytes_on_disk) AS bytes FROM {self._parts()}"
            f" WHERE active AND database = {text(self._settings.database)}"
            " GROUP BY on_host, name, partition) GROUP BY name, partition",
        )
        days: dict[date, list[tuple[str, str, int]]] = {}
        for row in found:
            name, partition = str(row["name"]), str(row["partition"])
            if name not in (MARKS, GAPS):
                days.setdefault(_day(partition), []).append((name, partition, int(str(row["size"]))))
        return days

    def _too_old(self, days: dict[date, list[tuple[str, str, int]]]) -> list[date]:
        if self._settings.retention is None:
            return []
        first = datetime.fromtimestamp(max(0.0, time.time() - self._settings.retention), UTC).date()
        return sorted(day for day in days if day < first)

    def _parts(self) -> str:
        """Where the parts are told of: replicas have the same ones, shards have not."""
        if self._tables.is_spread:
            return f"cluster({text(self._settings.cluster or '')}, system, parts)"
        return "system.parts"

    def _change(self, statement: str) -> None:
        """A server that does not answer does it when it is back."""
        self._everywhere.run(statement, lambda: True)

    def _drop(self, day: date, tables: list[tuple[str, str, int]], why: str) -> None:
        for name, partition, _ in tables:
            self._change(self._tables.drop_partition(name, partition))
        size = sum(size for _, _, size in tables)
        self._note(f"{day} is removed, {why}: {size / 1e6:.1f} MB of {len(tables)} tables")

    def _drop_gaps_and_marks(self) -> None:
        """Gaps are few, and not by day. Marks of spools that ended go a month after their last rows."""
        if self._settings.retention is None:
            return
        first = int(time.time() - self._settings.retention)
        if first <= 0:
            return
        old = f"toUInt32(time) < {first}"
        if rows_of(self._server, f"SELECT 1 AS is_old FROM {self._tables.data(GAPS)} WHERE {old} LIMIT 1"):
            self._change(
                f"ALTER TABLE {self._tables.named(GAPS)}{self._tables.everywhere} DELETE WHERE {old}"
            )
        month = (datetime.fromtimestamp(first, UTC) - timedelta(days=31)).strftime("%Y%m")
        for row in rows_of(
            self._server,
            f"SELECT DISTINCT partition FROM {self._parts()} WHERE active"
            f" AND database = {text(self._settings.database)} AND table = {text(MARKS)}",
        ):
            if str(row["partition"]) < month:
                self._change(self._tables.drop_partition(MARKS, str(row["partition"])))


def _day(partition: str) -> date:
    """A partition as system.parts names it: a date, or days since 1970."""
    if partition.isdigit():
        return date(1970, 1, 1) + timedelta(days=int(partition))
    return date.fromisoformat(partition.strip("'"))

"""The fleet that the answers in docs/queries.md are of: three agents, the last ten minutes."""

from __future__ import annotations

from pathlib import Path

from bpfleet.layout import declared_map
from bpfleet.plugins import Plugins
from bpfleet.stores import Received
from bpfleet.wire import Column, Schema, columns_of
from bpfleet_aggregator.stores.duckdb import DuckdbSettings, DuckdbStore
from store_records import SECOND, Agent, context, young


def schema_of(collector: str, name: str) -> Schema:
    """As the built-in collector declares it."""
    spec = Plugins().collector(collector)
    (found,) = [one for one in spec.maps if one.name == name]
    key, value = declared_map(found)
    columns = columns_of(key.columns(), value.columns())
    return Schema(spec.name, spec.version, found.name, found.help, columns)


COUNTS = schema_of("execve", "counts")
CPU = schema_of("cputime", "processes")
LATENCY = schema_of("dnslat", "latency")
LINES = Schema(
    "bashreadline",
    "1",
    "lines",
    "",
    (Column("event_number", "key", "u64", None, "event"), Column("pid", "value", "u32", None, "label")),
)
"""A map that is drained, as an agent tells of it."""


def histogram(**counts: int) -> list[int]:
    return [counts.get(f"s{slot}", 0) for slot in range(32)]


def records() -> list[list[Received]]:
    """What each agent delivered."""
    epoch = young()
    web1 = Agent("a-1", "web-1", spool="s-1", epoch=epoch)
    web2 = Agent("a-2", "web-2", spool="s-2", epoch=epoch, delay=90 * SECOND)
    db1 = Agent("a-3", "db-1", spool="s-3", epoch=epoch)
    for at, sh, new in ((400, 100, []), (700, 400, []), (985, 970, [("nmap", 57)])):
        web1.snapshot(
            COUNTS, [("sh", sh), ("ls", 10), *new], at, entries=1000, losses={"failed_insert": at - 400}
        )
    for at, sh in ((400, 50), (700, 60), (985, 345)):
        # Two entries had no room in a row buffer that is too small.
        cut = {"failed_insert": 0, "truncated": 2}
        web2.snapshot(COUNTS, [("sh", sh)], at, entries=3, losses=cut, complete=False)
    for at, ns in ((400, 0), (700, 60), (985, 231)):
        web1.snapshot(CPU, [(1, at * 10**7, "systemd"), (77, ns * SECOND, "nginx")], at)
    for at, n in ((700, 1), (985, 101)):
        web1.snapshot(LATENCY, [("curl", histogram(s10=99 * n, s13=n), 100 * n, 150 * n * 10**6)], at)
        web2.snapshot(LATENCY, [("nginx", histogram(s4=100 * n), 100 * n, 2 * n * 10**6)], at)
    for at, no_room in ((700, 80), (985, 120)):
        losses = {"failed_insert": 0, "no_room": no_room, "worker_restart": 12}
        web1.snapshot(LINES, [(at, 77)], at, method="drain", losses=losses)
    db1.snapshot(COUNTS, [("postgres", 5)], 400)
    web2.gap(7, 9, 986)
    failed = {"what": "this kernel has no tracepoint syscalls:sys_enter_execve", "remedy": "mount tracefs"}
    db1.status(401, [{"name": "execve", "state": "running"}])
    web1.status(987)
    web2.status(987, [{"name": "execve", "state": "load_error", "error": failed}])
    return [agent.received for agent in (web1, web2, db1)]


def load(state: Path) -> None:
    """Store it under `state`/duckdb."""
    store = DuckdbStore(DuckdbSettings(), context(state))
    try:
        for received in records():
            store.commit(received)
    finally:
        store.close()

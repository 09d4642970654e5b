"""No agent makes a store grow tables without end: schemas beyond a limit are refused, with the reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq

from aggregator_process import AggregatorProcess
from bpfleet.plugins import Plugins
from bpfleet.stores import StoreContext
from bpfleet.wire import Column, Origin, Schema, Snapshot, encode_schema, encode_snapshot
from bpfleet.wire.messages import Ack, Data, Hello, Nack, Welcome, decode, encode
from clickhouse_servers import Place

Start = Callable[..., AggregatorProcess]


def schema(number: int, columns: int = 2) -> Schema:
    """One of as many maps as anybody likes."""
    fields = [Column(f"f{index}", "value", "u64", None, "gauge") for index in range(columns)]
    return Schema("evil", "1", f"map{number}", "", tuple(fields))


def deliver(
    aggregator: AggregatorProcess, agent: str, schemas: Sequence[Schema], first: int = 1
) -> dict[int, str]:
    """One snapshot of each; returns those that were refused for good, with the reason."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.linger = 0
    socket.connect(aggregator.endpoint)
    last = first + len(schemas) - 1
    socket.send_multipart(encode(Hello(agent=agent, spool="s", first=first, last=last)))
    refused: dict[int, str] = {}
    acknowledged = 0
    try:
        while acknowledged < last and len(refused) < len(schemas):
            assert socket.poll(30_000), aggregator.said
            message = decode(socket.recv_multipart())
            if isinstance(message, Welcome):
                for seq, one in enumerate(schemas, first):
                    send(socket, agent, seq, one)
            elif isinstance(message, Nack):
                assert message.fatal
                refused[message.seq] = message.reason
            else:
                assert isinstance(message, Ack)
                acknowledged = message.seq
                if acknowledged == max(set(range(first, last + 1)) - refused.keys(), default=0):
                    break
    finally:
        socket.close(linger=0)
        context.term()
    return refused


def send(socket: zmq.Socket[bytes], agent: str, seq: int, one: Schema) -> None:
    frame = encode_schema(one)
    snapshot = Snapshot(
        schema=one,
        origin=Origin(agent, "host", "boot", 1),
        generation=1,
        seq=seq,
        t0=seq,
        t1=seq,
        wall_offset=1_790_000_000 * 10**9,
        rows=1,
        columns=[np.array([seq], "<u8") for _ in one.columns],
        method="walk",
        complete=True,
        entries=1,
        max_entries=1,
    )
    (made,) = encode_snapshot(snapshot, frame)
    for number, data in ((0, frame.data), (seq, made.data)):
        socket.send_multipart(encode(Data(spool="s", seq=number, frame=bytes(data))))


@pytest.fixture
def start(shared_path: Path) -> Iterator[Start]:
    started: list[AggregatorProcess] = []

    def begin(settings: str = "", **options: Any) -> AggregatorProcess:
        started.append(AggregatorProcess(shared_path, settings, **options))
        return started[-1]

    yield begin
    for one in started:
        assert one.stop() == 0, one.said


def test_an_agent_may_bring_so_many_schemas_and_what_others_have_counts_not(start: Start) -> None:
    aggregator = start("agent_schemas = 3", store="[store.duckdb]")
    assert deliver(aggregator, "good", [schema(100), schema(101)]) == {}
    refused = deliver(aggregator, "evil", [*(schema(number) for number in range(5)), schema(100), schema(1)])
    assert sorted(refused) == [4, 5]
    assert refused[4] == (
        f"schema {schema(3).id} (evil, map map3) is one too many: 3 that this agent came with first are as"
        " many as are taken"
    )
    assert deliver(aggregator, "good", [schema(102)], first=3) == {}
    assert aggregator.stop() == 0
    assert "record: agent evil, record 4 is refused: schema" in aggregator.said
    assert "ended: 8 records stored, 2 refused, 2 of them for their schema" in aggregator.said


def test_an_agents_columns_are_counted_too(start: Start) -> None:
    aggregator = start("agent_columns = 1000", store="[store.duckdb]")
    refused = deliver(aggregator, "evil", [schema(1, 500), schema(2, 400), schema(3, 101), schema(4, 100)])
    assert sorted(refused) == [3]
    assert (
        "its 101 columns and the 900 of those that this agent came with first are more than 1000"
        in (refused[3])
    )


@pytest.mark.parametrize("store", ["duckdb", "clickhouse"])
def test_what_the_store_has_counts_from_the_start_on(
    start: Start, store: str, request: pytest.FixtureRequest
) -> None:
    table = f"[store.{store}]"
    if store == "clickhouse":
        place: Place = request.getfixturevalue("server_place")
        table += f'\nurl = "{place.settings().url}"\ndatabase = "{place.database}"'
    aggregator = start("schemas = 5\ncolumns = 100", store=table)
    assert deliver(aggregator, "one", [schema(1), schema(2), schema(3)]) == {}
    aggregator.kill()
    aggregator.restart()
    refused = deliver(aggregator, "other", [schema(4), schema(5, 93), schema(6), schema(7), schema(1)])
    assert sorted(refused) == [2, 4]
    assert "its 93 columns and the 8 of those that the store has are more than 100" in refused[2]
    assert "5 that the store has are as many as are taken" in refused[4]


def test_a_store_made_elsewhere_need_not_tell_what_it_has(start: Start) -> None:
    aggregator = start("schemas = 1")  # the tests' own store, of rows
    assert sorted(deliver(aggregator, "one", [schema(1), schema(2)])) == [2]


def test_no_table_is_made_for_a_schema_that_is_refused(start: Start, shared_path: Path) -> None:
    aggregator = start("agent_schemas = 2", store="[store.duckdb]")
    deliver(aggregator, "evil", [schema(number) for number in range(6)])
    assert aggregator.stop() == 0
    kind = Plugins().store_type("duckdb")
    reader = kind.read(kind.settings(), StoreContext("duckdb", shared_path / "aggregator"))
    found = reader.query("SELECT count(*) AS n FROM schemas").read_all().to_pylist()
    reader.close()
    assert found == [{"n": 2}]

"""`bpfleet aggregate` as a process, with the real zmq sink and a real store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aggregator_process import AggregatorProcess
from bpfleet_plugins.sinks.zmq import ZmqSettings, ZmqSink
from sample_records import AGENT, context, encode_gap, encode_status, frame, gap, status

Start = Callable[..., AggregatorProcess]
OpenSink = Callable[..., ZmqSink]

SHARDS = (1, 2)


@pytest.fixture
def sink(shared_path: Path) -> Iterator[Callable[..., ZmqSink]]:
    opened: list[ZmqSink] = []

    def open_sink(aggregator: AggregatorProcess, **options: Any) -> ZmqSink:
        settings = ZmqSettings(endpoints=(aggregator.endpoint,), **options)
        opened.append(ZmqSink(settings, context(shared_path / "agent")))
        return opened[-1]

    yield open_sink
    for one in opened:
        one.close()


def test_what_the_sink_has_delivered_is_stored(start_aggregator: Start, sink: OpenSink) -> None:
    aggregator = start_aggregator()
    sink(aggregator).write(
        [frame(1), encode_gap(gap(2, 5, 7)), encode_status(status(3)), frame(4, {"cat": 7})]
    )
    rows = aggregator.stored(4)
    assert [row[3] for row in rows] == ["Snapshot", "Gap", "Status", "Snapshot"]
    assert {row[0] for row in rows} == {AGENT}
    assert aggregator.seqs() == [1, 2, 3, 4]
    assert b"cat" in rows[3][4]
    assert aggregator.stop() == 0
    assert "ended: 4 records stored" in aggregator.said


def test_a_killed_aggregator_goes_on_where_it_was(start_aggregator: Start, sink: OpenSink) -> None:
    aggregator = start_aggregator()
    one = sink(aggregator, ack_timeout=1.0, backoff=0.05)
    one.write([frame(1), frame(2)])
    assert aggregator.seqs(2) == [1, 2]
    aggregator.kill()
    aggregator.restart()
    one.write([frame(3), frame(4)])
    assert aggregator.seqs(4) == [1, 2, 3, 4]


def test_a_record_that_the_store_cant_take_costs_no_other(start_aggregator: Start, sink: OpenSink) -> None:
    aggregator = start_aggregator()
    sink(aggregator).write([frame(1), frame(2), frame(3, {"POISON": 1}), frame(4), frame(5)])
    rows = aggregator.stored(5)
    # The agent tells of the refused one by a gap, which follows.
    assert [(row[2], row[3]) for row in rows] == [
        *((seq, "Snapshot") for seq in (1, 2, 4, 5)),
        (6, "Gap"),
    ]
    assert "record 3 is refused: ValueError: poison" in aggregator.said


@pytest.mark.parametrize("trouble", ["fail", "broken"])
def test_while_nothing_can_be_stored_nothing_is_acknowledged_and_then_all_is(
    start_aggregator: Start, sink: OpenSink, trouble: str
) -> None:
    aggregator = start_aggregator()
    (aggregator.state / trouble).touch()
    one = sink(aggregator, ack_timeout=0.5, backoff=0.05)
    frames = [frame(seq) for seq in range(1, 30)]
    one.write(frames)
    aggregator.wait_for_line("nothing can be stored now")
    assert aggregator.seqs() == []
    (aggregator.state / trouble).unlink()
    aggregator.wait_for_line("records are stored again")
    assert aggregator.seqs(29) == list(range(1, 30))


def test_an_agent_that_waited_for_the_store_is_told_when_it_is_back(
    start_aggregator: Start, sink: OpenSink
) -> None:
    aggregator = start_aggregator()
    one = sink(aggregator)
    one.write([frame(1)])
    assert aggregator.seqs(1) == [1]
    (aggregator.state / "fail").touch()
    one.write([frame(seq) for seq in range(2, 40)])
    aggregator.wait_for_line("nothing can be stored now")
    (aggregator.state / "fail").unlink()
    assert aggregator.seqs(39) == list(range(1, 40))
    assert "session" not in aggregator.said

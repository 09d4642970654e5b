"""A sink's queue: order, bounds, gaps, failures, and the end. With real threads and the real ledger."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from bpfleet.errors import SinkError, SinkGone
from bpfleet.plugins import State
from bpfleet.wire import Column, Decoder, Frame, Gap, Origin, Schema, encode_schema
from bpfleet.worker.delivery import Delivery
from bpfleet.worker.ledger import Ledger

ORIGIN = Origin("agent", "host", "boot", 1)
SCHEMA = encode_schema(Schema("c", "1", "m", "", (Column("n", "value", "u64", None, "counter"),)))


class Recorder:
    """A sink that keeps what it gets, and fails or waits as it is told."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.opened = self.closed = 0
        self.fail: Callable[[], Exception | None] = lambda: None
        self.gate = threading.Event()
        self.gate.set()

    def open(self, delivery: Delivery) -> Recorder:
        self.opened += 1
        return self

    def write(self, frames: Sequence[Frame]) -> None:
        self.gate.wait(10)
        error = self.fail()
        if error is not None:
            raise error
        self.frames.extend(frames)

    def close(self) -> None:
        self.closed += 1

    def seqs(self) -> list[int]:
        return [frame.seq for frame in self.frames if frame.kind == "status"]

    def gaps(self) -> list[Gap]:
        decoded = [Decoder().decode(frame.data) for frame in self.frames if frame.kind == "gap"]
        return [gap for gap in decoded if isinstance(gap, Gap)]


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    fd = os.memfd_create("ledger")
    os.truncate(fd, 4096)
    yield Ledger(fd)
    os.close(fd)


@pytest.fixture
def sink() -> Recorder:
    return Recorder()


@pytest.fixture
def delivery(ledger: Ledger, sink: Recorder) -> Iterator[Delivery]:
    made = new_delivery(ledger, sink)
    made.start()
    yield made
    sink.gate.set()
    made.stop(time.monotonic() + 5)


def new_delivery(ledger: Ledger, sink: Recorder, limit: int = 1 << 20) -> Delivery:
    return Delivery(
        "test", "recorder", sink.open, limit=limit, origin=ORIGIN, ledger=ledger, changed=lambda: None
    )


def offer(
    delivery: Delivery, ledger: Ledger, count: int, size: int = 100, schema: Frame | None = None
) -> None:
    for _ in range(count):
        seq = ledger.next_seq
        delivery.offer(Frame("status", seq, bytes(size), schema))
        ledger.used(seq)


def wait_for(what: Callable[[], object]) -> None:
    for _ in range(1000):
        if what():
            return
        time.sleep(0.01)
    raise AssertionError("waited 10 s in vain")


def test_records_come_in_order_and_the_ledger_knows(
    delivery: Delivery, ledger: Ledger, sink: Recorder
) -> None:
    offer(delivery, ledger, 1000)
    wait_for(lambda: len(sink.seqs()) == 1000)
    assert sink.seqs() == list(range(1, 1001))
    wait_for(lambda: ledger.delivered("test") == 1000)


def test_a_schema_comes_before_the_first_record_that_needs_it_and_again_after_each_opening(
    delivery: Delivery, ledger: Ledger, sink: Recorder
) -> None:
    offer(delivery, ledger, 3, schema=SCHEMA)
    wait_for(lambda: len(sink.seqs()) == 3)
    assert [frame.kind for frame in sink.frames] == ["schema", "status", "status", "status"]
    failures = iter([SinkError("not now")])
    sink.fail = lambda: next(failures, None)
    offer(delivery, ledger, 1, schema=SCHEMA)
    wait_for(lambda: len(sink.seqs()) == 4)
    assert [frame.kind for frame in sink.frames[4:]] == ["schema", "status"]
    assert (sink.opened, sink.closed) == (2, 1)


def test_a_full_queue_drops_the_oldest_and_one_gap_says_so(
    delivery: Delivery, ledger: Ledger, sink: Recorder
) -> None:
    sink.gate.clear()
    offer(delivery, ledger, 1)
    wait_for(lambda: delivery.queued[0] == 0)
    offer(delivery, ledger, 30, size=100_000)
    sink.gate.set()
    wait_for(lambda: sink.seqs() and sink.seqs()[-1] == 31)
    (gap,) = sink.gaps()
    assert (gap.first, gap.last, gap.count, gap.reason, gap.sink) == (2, 21, 20, "queue_full", "test")
    assert sink.seqs() == [1, *range(22, 32)]
    assert [frame.kind for frame in sink.frames][1] == "gap", "told in the place of what is missing"
    assert delivery.dropped == 20


def test_a_sink_that_says_not_now_gets_the_same_records_again(
    delivery: Delivery, ledger: Ledger, sink: Recorder
) -> None:
    failures = iter([SinkError("full")] * 4)
    sink.fail = lambda: next(failures, None)
    offer(delivery, ledger, 5)
    wait_for(lambda: delivery.state is State.QUARANTINED)
    wait_for(lambda: len(sink.seqs()) == 5)
    assert sink.seqs() == [1, 2, 3, 4, 5]
    assert sink.gaps() == []
    wait_for(lambda: delivery.state is State.RUNNING and delivery.error is None)


def test_records_that_make_a_sink_raise_three_times_are_given_up_and_told(
    delivery: Delivery, ledger: Ledger, sink: Recorder
) -> None:
    failures = iter([ValueError("bug")] * 3)
    sink.fail = lambda: next(failures, None)
    offer(delivery, ledger, 1)
    wait_for(lambda: delivery.dropped == 1)
    assert "ValueError: bug" in str(delivery.error)
    offer(delivery, ledger, 1)
    wait_for(lambda: sink.seqs() == [2])
    (gap,) = sink.gaps()
    assert (gap.first, gap.last, gap.reason) == (1, 1, "sink_error")


def test_what_a_sink_gives_up_by_itself_is_told_with_its_reason(
    delivery: Delivery, ledger: Ledger, sink: Recorder
) -> None:
    delivery.lost([Frame("status", 7, b""), Frame("schema", 0, b""), Frame("status", 8, b"")], "refused")
    offer(delivery, ledger, 1)
    wait_for(lambda: sink.gaps())
    (gap,) = sink.gaps()
    assert (gap.first, gap.last, gap.count, gap.reason) == (7, 8, 2, "refused")


def test_what_waits_is_delivered_before_the_end(ledger: Ledger, sink: Recorder) -> None:
    delivery = new_delivery(ledger, sink)
    delivery.start()
    offer(delivery, ledger, 500)
    assert delivery.stop(time.monotonic() + 10) == 0
    assert sink.seqs() == list(range(1, 501))
    assert sink.closed == 1


def test_a_blocked_sink_does_not_hold_up_the_end(ledger: Ledger, sink: Recorder) -> None:
    delivery = new_delivery(ledger, sink)
    delivery.start()
    sink.gate.clear()
    offer(delivery, ledger, 1)
    wait_for(lambda: delivery.queued[0] == 0)
    offer(delivery, ledger, 9)
    assert delivery.stop(time.monotonic() + 0.5) == 10, "the record in the sink's hands counts too"
    sink.gate.set()


def test_a_failing_sink_does_not_hold_up_the_end(ledger: Ledger, sink: Recorder) -> None:
    delivery = new_delivery(ledger, sink)
    sink.fail = lambda: SinkError("never")
    delivery.start()
    offer(delivery, ledger, 4)
    wait_for(lambda: delivery.state is State.QUARANTINED)
    assert delivery.stop(time.monotonic() + 0.5) == 4


def test_the_next_worker_tells_what_went_down_with_the_one_before(ledger: Ledger, sink: Recorder) -> None:
    first = new_delivery(ledger, sink)
    first.start()
    offer(first, ledger, 3)
    wait_for(lambda: ledger.delivered("test") == 3)
    sink.gate.clear()
    offer(first, ledger, 4)
    after = Recorder()
    second = new_delivery(ledger, after)
    second.start()
    offer(second, ledger, 1)
    wait_for(lambda: after.seqs() == [8])
    (gap,) = after.gaps()
    assert (gap.first, gap.last, gap.count, gap.reason) == (4, 7, 4, "worker_restart")
    sink.gate.set()
    first.stop(time.monotonic() + 5)
    second.stop(time.monotonic() + 5)


def test_the_ledger_has_room_for_sinks_with_long_and_like_names(ledger: Ledger) -> None:
    names = [f"sink-with-a-rather-long-name-{number}" for number in range(50)]
    for number, name in enumerate(names):
        ledger.set_delivered(name, number + 1)
    assert [ledger.delivered(name) for name in names] == list(range(1, 51))


def test_a_sink_that_has_gone_is_left_alone(delivery: Delivery, ledger: Ledger, sink: Recorder) -> None:
    sink.fail = lambda: SinkGone("the reader has gone")
    offer(delivery, ledger, 3)
    wait_for(lambda: delivery.gone)
    offer(delivery, ledger, 2)
    wait_for(lambda: delivery.dropped == 5)
    assert delivery.queued == (0, 0)
    assert sink.opened == 1
    assert delivery.stop(time.monotonic() + 5) == 0

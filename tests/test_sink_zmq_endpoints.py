"""Several aggregators: each agent has an order of its own, leaves a dead one, and comes back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from aggregator_peer import Peer, Store
from bpfleet_plugins.sinks.endpoints import Endpoints, by_preference
from bpfleet_plugins.sinks.zmq import ZmqSink
from delivery_scenes import arrive, free_endpoint, one_answer, some, wait_until
from sample_records import AGENT

Start = Callable[..., Peer]
Open = Callable[..., ZmqSink]
NAMES = [f"tcp://aggregator{n}:7310" for n in range(4)]


def test_agents_spread_over_the_endpoints_whatever_their_order_in_the_file() -> None:
    firsts = Counter(by_preference(NAMES, f"agent-{n}")[0] for n in range(4000))
    assert set(firsts) == set(NAMES)
    assert min(firsts.values()) > 800
    assert by_preference(NAMES, "a") == by_preference(NAMES[::-1], "a")


def test_one_endpoint_less_moves_only_those_that_had_it() -> None:
    for n in range(200):
        before = by_preference(NAMES, f"agent-{n}")
        assert by_preference(NAMES[:-1], f"agent-{n}") == [one for one in before if one != NAMES[-1]]


def endpoints(now: list[float], count: int = 3) -> Endpoints:
    return Endpoints(NAMES[:count], "a", move_after=10, return_after=100, clock=lambda: now[0])


def test_a_dead_endpoint_is_left_after_a_while_and_tried_again_later() -> None:
    now = [0.0]
    some_endpoints = endpoints(now)
    first, second, _ = some_endpoints.order
    assert not some_endpoints.failed(hopeless=False)
    now[0] = 9
    assert not some_endpoints.failed(hopeless=False)
    now[0] = 10
    assert some_endpoints.failed(hopeless=False)
    assert some_endpoints.current == second
    some_endpoints.worked()
    now[0] = 10 + 49
    assert not some_endpoints.should_return
    now[0] = 10 + 151
    assert some_endpoints.should_return
    some_endpoints.go_back()
    assert some_endpoints.current == first
    assert some_endpoints.failed(hopeless=False), "one failure leads back at once"
    assert some_endpoints.current == second
    assert not some_endpoints.should_return


def test_success_forgets_failures_and_a_hopeless_endpoint_is_left_at_once() -> None:
    now = [0.0]
    one = endpoints(now)
    one.failed(hopeless=False)
    one.worked()
    now[0] = 11
    assert not one.failed(hopeless=False)
    assert one.failed(hopeless=True)


def test_a_single_endpoint_is_never_left() -> None:
    one = endpoints([0.0], 1)
    assert not one.failed(hopeless=True)
    assert one.current == NAMES[0]


def preferred_first(one: Peer, other: Peer) -> tuple[Peer, Peer]:
    order = by_preference([one.endpoint, other.endpoint], AGENT)
    return (one, other) if order[0] == one.endpoint else (other, one)


def test_an_aggregator_that_dies_is_left_and_come_back_to(
    start: Start, open_sink: Open, store: Store
) -> None:
    first, second = preferred_first(start(), start())
    sink = open_sink(first.endpoint, second.endpoint, hello_timeout="300ms", return_after="500ms")
    sink.write(some(1, 5))
    arrive(store, [1, 2, 3, 4, 5])
    assert not second.heard
    first.stop()
    sink.write(some(6, 9))
    arrive(store, list(range(1, 10)))
    assert second.heard
    again = start(Peer, first.endpoint)
    seq = 10

    def written_until_heard() -> bool:
        nonlocal seq
        sink.write(some(seq, seq))
        seq += 1
        return bool(again.data())

    wait_until(written_until_heard)
    arrive(store, list(range(1, seq)))


@pytest.mark.parametrize("strange", [[b"?"]])
def test_a_strange_endpoint_and_dead_ones_are_left_for_the_next(
    start: Start, open_sink: Open, store: Store, strange: list[bytes]
) -> None:
    bad, good = start(one_answer(strange)), start()
    open_sink(bad.endpoint, free_endpoint(), good.endpoint, hello_timeout="200ms").write(some(1, 5))
    arrive(store, [1, 2, 3, 4, 5])

"""How many records each agent may have on its way."""

from __future__ import annotations

from bpfleet.settings import Size
from bpfleet_aggregator.config import AggregatorSettings
from bpfleet_aggregator.credit import Credit

MEMORY = 256 << 20


def credit(window: int = 16) -> Credit:
    return Credit(AggregatorSettings(window=window, memory=Size(MEMORY)))


def test_a_few_agents_have_the_whole_window() -> None:
    share = credit()
    share.stored(1000, 3_000_000)
    assert share.of_each(100, 0) == 16


def test_ten_thousand_agents_have_as_much_as_there_is_room_for() -> None:
    share = credit()
    for _ in range(50):
        share.stored(10_000, 10_000 * 3000)
    each = share.of_each(10_000, 0)
    assert 3 < each < 16
    assert 10_000 * each * 3000 < MEMORY


def test_each_has_one_however_many_there_are() -> None:
    share = credit()
    share.stored(10, 10 << 20)
    assert share.of_each(100_000, 0) == 1


def test_nobody_has_any_while_half_of_the_room_is_taken() -> None:
    assert credit().of_each(1, MEMORY // 2 + 1) == 0

"""The questions of docs/queries.md, as they stand there, have the same answers in ClickHouse."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from bpfleet.plugins import Plugins
from bpfleet.stores import Received, StoreContext, StoreReader
from bpfleet_aggregator.stores.clickhouse.instants import with_decimal_now
from clickhouse_servers import Place
from query_fleet import records
from test_queries import QUESTIONS


@pytest.fixture(scope="module")
def fleet() -> list[list[Received]]:
    """Made once: its times are relative to now."""
    return records()


@pytest.fixture
def embedded(tmp_path: Path, fleet: list[list[Received]]) -> Iterator[StoreReader]:
    kind = Plugins().store_type("duckdb")
    settings, context = kind.settings(), StoreContext("duckdb", tmp_path)
    store = kind.open(settings, context)
    for received in fleet:
        store.commit(received)
    store.close()
    reader = kind.read(settings, context)
    yield reader
    reader.close()


def plain(value: Any) -> Any:
    """Sums of integers are decimals to the one, integers to the other."""
    return float(value) if isinstance(value, Decimal | int) else value


def test_the_eleven_questions_have_the_same_answers(
    place: Place, embedded: StoreReader, fleet: list[list[Received]]
) -> None:
    store = place.store()
    for received in fleet:
        store.commit(received)
    for name, sql, _ in QUESTIONS:
        for last in (False, False, True):
            ours = [list(map(plain, row.values())) for row in place.ask(sql)]
            theirs = [list(map(plain, row.values())) for row in embedded.query(sql).read_all().to_pylist()]
            if len(ours) == len(theirs) > 0 and all(map(alike, ours, theirs)):
                break
            assert not last, (name, ours, theirs)
            time.sleep(1.1)  # a record has just left "the last hour" of one and not yet of the other


def alike(ours: list[Any], theirs: list[Any]) -> bool:
    return bool(ours == pytest.approx(theirs))


@pytest.mark.parametrize(
    ("sql", "seconds"),
    [
        ("SELECT time > now() FROM x", [0]),
        (
            "time>NOW ( ) - interval 5 minute AND x < now() + INTERVAL 2 HOURS - INTERVAL 1 SECOND",
            [-300, 7199],
        ),
        ("SELECT 'now()', `now()`, known(), x.now() -- now()\n /* now() */", []),
        ("time > now() - INTERVAL 1 MONTH", [0]),  # of no fixed length: the server says that it can't
    ],
)
def test_now_is_seconds_where_points_in_time_are_decimals(sql: str, seconds: list[int]) -> None:
    made = with_decimal_now(sql)
    assert re.findall(r"toDecimal64\(toInt64\(toUInt32\(now\(\)\)\) \+ \((-?\d+)\), 6\)", made) == [
        str(one) for one in seconds
    ]
    if not seconds:
        assert made == sql


def test_now_is_now(place: Place) -> None:
    place.store()
    (row,) = place.ask("SELECT now() AS at, now() - INTERVAL 1 HOUR AS earlier")
    assert abs(row["at"].timestamp() - time.time()) < 60
    assert (row["at"] - row["earlier"]).total_seconds() == 3600

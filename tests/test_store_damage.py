"""Damage inside partition files: never a wrong answer, never a silent hole, and storing goes on."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from bpfleet.errors import StoreError
from bpfleet.settings import Duration, Size
from bpfleet.wire import Schema
from bpfleet_aggregator.stores.duckdb import DuckdbSettings, DuckdbStore, open_reader
from store_records import Agent, context, key, value

WIDE = Schema("x", "1", "m", "", (key("k"), value("n"), value("v", "bytes", 200, "label")))
QUESTIONS = (
    "SELECT count(*) AS n, sum(n) AS s FROM x_m",
    "SELECT count(DISTINCT v) AS n FROM x_m",
    "SELECT count(*) AS n FROM snapshots",
    "SELECT agent, records FROM agents",
    "SELECT count(*) AS n FROM x_m_rate",
)


def settings(**changes: Any) -> DuckdbSettings:
    return DuckdbSettings(**({"retention": Duration(10**9), "size_limit": Size(1 << 30)} | changes))


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[..., DuckdbStore]]:
    stores: list[DuckdbStore] = []

    def make(notes: list[str] | None = None, **changes: Any) -> DuckdbStore:
        stores.append(DuckdbStore(settings(**changes), context(tmp_path, notes)))
        return stores[-1]

    yield make
    for store in stores:
        store.close()


def rows(seed: int, count: int = 300) -> list[tuple[int, int, bytes]]:
    noise = random.Random(seed)
    return [(i, seed * 1000 + i, noise.randbytes(200)) for i in range(count)]


def files(folder: Path) -> list[Path]:
    return sorted((folder / "duckdb").glob("*.duckdb"))


def flip(path: Path, offset: int, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 1 << bit]))


def damage_table(path: Path, table: str) -> None:
    """Flip one bit in a block that has values of column `v` of that table."""
    database = duckdb.connect(str(path), read_only=True)
    blocks = database.execute(
        f"SELECT block_id FROM pragma_storage_info('{table}') WHERE block_id >= 0 AND column_name = 'v'"
    ).fetchall()
    ((size,),) = database.execute("SELECT block_size FROM pragma_database_size()").fetchall()
    database.close()
    flip(path, 3 * 4096 + blocks[0][0] * size + 1000, 3)


class Asked:
    """What a question got, and what was noted meanwhile."""

    def __init__(self, folder: Path, sql: str) -> None:
        self.notes: list[str] = []
        self.rows: list[dict[str, Any]] = []
        self.error: StoreError | None = None
        reader = open_reader(settings(), context(folder, self.notes))
        try:
            self.rows = reader.query(sql).read_all().to_pylist()
        except StoreError as error:
            self.error = error
        finally:
            reader.close()


def three_partitions(folder: Path, agent: Agent) -> list[Path]:
    store = DuckdbStore(settings(), context(folder))
    for at in (1, 2, 3):
        store.commit([agent.snapshot(WIDE, rows(at), 10 * at)])
        if at < 3:
            store._begin()
    store.close()
    return files(folder)


# ---- questions


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_question_that_meets_damage_names_the_file_and_the_next_goes_on_without_it(
    opened: Any, tmp_path: Path, which: int
) -> None:
    agent = Agent()
    path = three_partitions(tmp_path, agent)[which]
    damage_table(path, f"d_{WIDE_ID}")
    notes: list[str] = []
    store = opened(notes)
    first = Asked(tmp_path, QUESTIONS[1])
    assert first.error is not None
    assert "a partition is damaged" in first.error.what
    assert "checksum" in first.error.what
    assert first.error.where == str(path)
    assert "ask again" in first.error.remedy
    assert Asked(tmp_path, QUESTIONS[2]).rows == [{"n": 3}], (
        "what needs no damaged block is answered meanwhile"
    )
    store.maintain()
    aside = path.with_name(path.name + ".damaged")
    assert aside.exists()
    (noted,) = notes
    assert f"partition {path} is damaged and was set aside as {aside.name}" in noted
    then = Asked(tmp_path, QUESTIONS[1])
    assert (then.error, then.rows) == (None, [{"n": 600}])
    (said,) = then.notes
    assert said.startswith(f"answers lack what {path.name} had from 20")
    assert str(aside) in said
    # And storing goes on where it was, whichever it was.
    assert store.marks([(agent.name, agent.spool)]) == [3]
    store.commit([agent.snapshot(WIDE, rows(4), 40)])
    assert Asked(tmp_path, QUESTIONS[1]).rows == [{"n": 900}]
    store.close()
    again = opened()
    assert again.marks([(agent.name, agent.spool)]) == [4], "the marks outlived the file that they lay in"


def test_a_good_copy_is_put_back(opened: Any, tmp_path: Path) -> None:
    path = three_partitions(tmp_path, Agent())[1]
    copy = path.read_bytes()
    damage_table(path, f"d_{WIDE_ID}")
    store = opened()
    assert Asked(tmp_path, QUESTIONS[1]).error is not None
    store.maintain()
    store.close()
    path.with_name(path.name + ".damaged").unlink()
    path.write_bytes(copy)
    found = Asked(tmp_path, QUESTIONS[1])
    assert (found.rows, found.notes) == ([{"n": 900}], [])


def test_without_an_aggregator_the_question_says_which_file_and_what_to_do(tmp_path: Path) -> None:
    path = three_partitions(tmp_path, Agent())[1]
    damage_table(path, f"d_{WIDE_ID}")
    asked = Asked(tmp_path, QUESTIONS[1])
    assert asked.error is not None
    assert asked.error.where == str(path)
    assert "put back a good copy, or move it away" in asked.error.remedy
    path.rename(path.with_name(path.name + ".damaged"))
    then = Asked(tmp_path, QUESTIONS[1])
    assert then.rows == [{"n": 600}]
    assert "answers lack" in then.notes[0]


def test_rates_do_not_reach_over_what_was_set_aside(opened: Any, tmp_path: Path) -> None:
    """A counter that is seen first after the hole has not grown from nothing since the read in the hole."""
    path = three_partitions(tmp_path, Agent())[1]
    damage_table(path, f"d_{WIDE_ID}")
    store = opened()
    assert Asked(tmp_path, QUESTIONS[1]).error is not None
    store.maintain()
    found = Asked(tmp_path, "SELECT since, seconds FROM x_m_rate WHERE k = 7 ORDER BY time")
    assert [one["since"] for one in found.rows] == ["load", "load"]
    assert found.rows[1]["seconds"] == 28.0, "since the load"


# ---- any bit


def _copy(good: dict[str, bytes], folder: Path) -> None:
    for name, content in good.items():
        (folder / name).write_bytes(content)


@pytest.mark.parametrize("seed", range(6))
def test_whichever_bit_flips_answers_are_right_or_refused_and_records_are_stored_once(
    tmp_path: Path, seed: int
) -> None:
    made = tmp_path / "made"
    agent = Agent()
    newest = three_partitions(made, agent)[-1]
    good = {path.name: path.read_bytes() for path in files(made)}
    order = random.Random(seed)
    happened: Counter[str] = Counter()
    for turn in range(12):
        folder = tmp_path / f"{seed}-{turn}"
        (folder / "duckdb").mkdir(parents=True)
        _copy(good, folder / "duckdb")
        victim = folder / "duckdb" / order.choice([newest.name, *good])
        # The headers and what lies behind them more often: there is less of it.
        offset = order.randrange(order.choice([3 * 4096, victim.stat().st_size]))
        flip(victim, offset, order.randrange(8))
        happened[_lived_through(folder, turn)] += 1
    assert happened, "something was tried"
    assert set(happened) <= {"unharmed", "set aside at the start", "set aside when met"}


def _lived_through(folder: Path, turn: int) -> str:
    notes: list[str] = []
    store = DuckdbStore(settings(), context(folder, notes))
    happened = "set aside at the start" if notes else "unharmed"
    later = Agent(spool_seq=3, seq=3)
    try:
        ((mark),) = store.marks([("agent-1", "spool-1")])
        assert mark in (2, 3) if notes else mark == 3
        for sql in QUESTIONS:
            asked = Asked(folder, sql)
            if asked.error is not None:
                assert "a partition is damaged" in asked.error.what, asked.error
                assert asked.error.where.endswith(".duckdb")
                happened = "set aside when met"
                store.maintain()
                asked = Asked(folder, sql)
            assert asked.error is None, (turn, str(asked.error))
            assert bool(asked.notes) == bool(notes), "a hole is told with each answer, and only a hole"
        kept = 3 - len(notes)
        batch = [later.snapshot(WIDE, rows(4), 40)]
        store.commit(batch)
        store.commit(batch)
        assert store.marks([("agent-1", "spool-1")]) == [4]
        found = Asked(folder, "SELECT count(*) AS n, count(DISTINCT spool_seq) AS d FROM snapshots").rows
        assert found == [{"n": kept + 1, "d": kept + 1}]
        assert Asked(folder, "SELECT count(DISTINCT v) AS n FROM x_m").rows == [{"n": 300 * (kept + 1)}]
    finally:
        store.close()
    again = DuckdbStore(settings(), context(folder))
    assert again.marks([("agent-1", "spool-1")]) == [4]
    again.close()
    return happened


def test_a_file_that_is_cut_off_while_it_is_open_costs_itself_only(opened: Any, tmp_path: Path) -> None:
    agent = Agent()
    three_partitions(tmp_path, agent)
    store = opened()
    path = files(tmp_path)[1]
    os.truncate(path, path.stat().st_size // 2)
    asked = Asked(tmp_path, QUESTIONS[1])
    assert asked.error is not None
    assert asked.error.where == str(path)
    store.commit([agent.snapshot(WIDE, rows(4), 40)])
    assert Asked(tmp_path, QUESTIONS[1]).rows == [{"n": 900}]


# ---- the log


def test_a_damaged_log_costs_what_is_in_it_and_not_the_file(tmp_path: Path) -> None:
    agent = Agent()
    store = DuckdbStore(settings(), context(tmp_path))
    store.commit([agent.snapshot(WIDE, rows(1), 10)])
    store.close()
    code = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_store_damage import *
store = DuckdbStore(settings(), context(Path({str(tmp_path)!r})))
agent = Agent(spool_seq=1, seq=1)
for at in range(2, 6):
    store.commit([agent.snapshot(WIDE, rows(at), 10 * at)])
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    (path,) = files(tmp_path)
    log = path.with_name(path.name + ".wal")
    # In a value: what is wrong in a length looks like the end that a crash leaves, and is taken for one.
    flip(log, log.read_bytes().index(rows(4)[100][2][:20].hex().encode()) + 7, 1)
    notes: list[str] = []
    store = DuckdbStore(settings(), context(tmp_path, notes))
    try:
        (noted,) = notes
        assert f"the log of partition {path} is damaged and was set aside as {log.name}.damaged" in noted
        assert store.marks([("agent-1", "spool-1")]) == [1], "what is not stored is asked for again"
        found = Asked(tmp_path, "SELECT count(DISTINCT v) AS n FROM x_m")
        assert found.rows == [{"n": 300}]
        assert "answers lack" in found.notes[0]
    finally:
        store.close()


# ---- bounds


def test_what_was_set_aside_goes_before_anything_that_can_be_read(opened: Any, tmp_path: Path) -> None:
    path = three_partitions(tmp_path, Agent())[1]
    damage_table(path, f"d_{WIDE_ID}")
    notes: list[str] = []
    store = opened(notes)
    assert Asked(tmp_path, QUESTIONS[1]).error is not None
    store.maintain()
    store.close()
    aside = path.with_name(path.name + ".damaged")
    size = sum(one.stat().st_blocks * 512 for one in (tmp_path / "duckdb").iterdir())
    smaller = opened(notes, size_limit=Size(size - 4096))
    smaller.maintain()
    assert not aside.exists()
    assert f"{aside.name} removed" in notes[-1]
    assert Asked(tmp_path, QUESTIONS[1]).rows == [{"n": 600}]


def _schema_id() -> str:
    agent = Agent()
    return str(agent.snapshot(WIDE, rows(0, 1), 1).record.schema.id)  # type: ignore[union-attr]


WIDE_ID = _schema_id()

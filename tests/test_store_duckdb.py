"""The embedded store: each record once whatever happens, room given back, questions while it writes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bpfleet.errors import StoreError
from bpfleet.settings import Duration, Size
from bpfleet.wire import Schema
from bpfleet_aggregator.stores.duckdb import DuckdbSettings, DuckdbStore, open_reader
from bpfleet_aggregator.stores.duckdb.files import folder_size
from bpfleet_aggregator.stores.duckdb.reader import FileReader, SocketReader
from store_records import COUNTS, Agent, context, key, value

KEEP = Duration(10**9)
"""The records are older than 30 days."""
ROWS = [("sh", 2), ("ls", 1)]
SLOW = "SELECT count(*) FROM range(1000000000) a, range(1000000) b WHERE a.range + b.range = 7"


def settings(**changes: Any) -> DuckdbSettings:
    return DuckdbSettings(**({"retention": KEEP} | changes))


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[..., DuckdbStore]]:
    stores: list[DuckdbStore] = []

    def make(folder: Path = tmp_path, notes: list[str] | None = None, **changes: Any) -> DuckdbStore:
        stores.append(DuckdbStore(settings(**changes), context(folder, notes)))
        return stores[-1]

    yield make
    for store in stores:
        store.close()


def ask(folder: Path, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
    reader = open_reader(settings(), context(folder))
    try:
        return [tuple(row.values()) for row in reader.query(sql, parameters).read_all().to_pylist()]
    finally:
        reader.close()


def count(folder: Path, relation: str = "execve_counts") -> int:
    return int(ask(folder, f"SELECT count(*) FROM {relation}")[0][0])


# ---- once


def test_marks_are_those_of_what_is_stored_and_outlive_the_process(opened: Any, tmp_path: Path) -> None:
    store, agent = opened(), Agent()
    wanted = [(agent.name, agent.spool), ("nobody", "spool")]
    assert store.marks(wanted) == [0, 0]
    store.commit([agent.snapshot(COUNTS, ROWS, 10), agent.status(11), agent.gap(1, 2, 12)])
    assert store.marks(wanted) == [3, 0]
    store.close()
    store = DuckdbStore(settings(), context(tmp_path))
    assert store.marks(wanted) == [3, 0]
    store._begin()
    store.close()
    store = DuckdbStore(settings(), context(tmp_path))
    assert store.marks(wanted) == [3, 0]
    store.close()


def test_a_record_that_comes_again_is_stored_once(opened: Any, tmp_path: Path) -> None:
    store, agent = opened(), Agent()
    batch = [agent.snapshot(COUNTS, ROWS, 10), agent.snapshot(COUNTS, ROWS, 20)]
    store.commit(batch[:1])
    store.commit(batch)
    store.commit([*batch, *batch])
    assert count(tmp_path) == 4


def test_a_writer_killed_at_any_moment_has_stored_each_record_once(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    order, least = random.Random(1), 0
    for _ in range(6):
        writer = subprocess.Popen(
            [sys.executable, str(Path(__file__).parent / "store_writer.py"), str(tmp_path)],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        with writer:
            assert writer.stdout is not None
            begins = int(writer.stdout.readline().split()[1])
            assert begins >= least, "what was said to be stored is gone"
            time.sleep(order.uniform(0, 1.2))
            writer.send_signal(signal.SIGKILL)
            told = writer.stdout.read().split()
            least = max([begins, *(int(word) for word in told if word.isdigit())])
    ((seqs, distinct, last),) = ask(
        tmp_path, "SELECT count(*), count(DISTINCT spool_seq), max(spool_seq) FROM snapshots"
    )
    assert seqs == distinct == last >= least > 0
    assert count(tmp_path) == 3 * last
    store = DuckdbStore(settings(), context(tmp_path))
    assert store.marks([("agent-1", "spool-1")]) == [last]
    store.close()


def test_a_full_disk_is_not_now_and_heals(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "none", disk], check=True)
    try:
        store, agent = DuckdbStore(settings(size_limit=Size(1 << 30)), context(disk)), Agent()
        wide = Schema("x", "1", "m", "", (key("k"), value("v", "bytes", 200, "label")))
        stored, batch = 0, []
        full: StoreError | None = None
        while full is None and stored < 1000:
            batch = [agent.snapshot(wide, [(i, os.urandom(200)) for i in range(500)], 10 + stored)]
            try:
                store.commit(batch)
                stored += 1
            except StoreError as error:
                full = error
        assert full is not None
        assert "No space left" in full.what or "Out of" in full.what
        assert "make room" in full.remedy
        assert stored > 0
        assert count(disk, "x_m") == 500 * stored
        with pytest.raises(StoreError):
            store.commit(batch)
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        store.commit(batch)
        assert count(disk, "x_m") == 500 * (stored + 1)
        assert store.marks([(agent.name, agent.spool)]) == [stored + 1]
        store.close()
        assert count(disk, "x_m") == 500 * (stored + 1)
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


# ---- files


def test_a_second_aggregator_on_one_folder_is_refused(opened: Any, tmp_path: Path) -> None:
    opened()
    with pytest.raises(StoreError, match=f"another aggregator .process {os.getpid()}. writes to this store"):
        DuckdbStore(settings(), context(tmp_path))


@pytest.mark.parametrize("damage", [b"hello" * 1000, b""])
def test_a_damaged_partition_is_set_aside_and_the_others_go_on(tmp_path: Path, damage: bytes) -> None:
    agent, notes = Agent(), []
    store = DuckdbStore(settings(), context(tmp_path))
    for at in (10, 20, 30):
        store.commit([agent.snapshot(COUNTS, ROWS, at)])
        store._begin()
    store.close()
    second = sorted((tmp_path / "duckdb").glob("*.duckdb"))[1]
    second.write_bytes(damage or second.read_bytes()[:5000])
    store = DuckdbStore(settings(), context(tmp_path, notes))
    try:
        assert count(tmp_path) == 4
        assert store.marks([(agent.name, agent.spool)]) == [3]
        assert second.with_name(second.name + ".damaged").exists()
        assert "is damaged and was set aside" in notes[0]
    finally:
        store.close()


def test_what_is_beyond_the_limit_goes_and_its_room_is_free(opened: Any, tmp_path: Path) -> None:
    limit = 20 << 20
    notes: list[str] = []
    store, agent = opened(notes=notes, size_limit=Size(limit)), Agent()
    folder = tmp_path / "duckdb"
    wide = Schema("x", "1", "m", "", (key("k"), value("v", "bytes", 500, "label")))
    written, most = 0, 0
    answers: list[int] = []
    failures: list[Exception] = []
    done = threading.Event()

    def reads() -> None:
        while not done.is_set():
            try:
                answers.append(count(tmp_path, "x_m"))
                done.wait(0.05)
            except Exception as error:
                failures.append(error)
                return

    store.commit([agent.snapshot(wide, [(0, bytes(500))], 9)])
    reader = threading.Thread(target=reads)
    reader.start()
    try:
        for at in range(60):
            store.commit([agent.snapshot(wide, [(i, os.urandom(500)) for i in range(1000)], 10 + at)])
            written += 1_000_000
            most = max(most, folder_size(folder))
    finally:
        done.set()
        reader.join()
    assert written > 2 * limit
    assert not failures, failures
    assert most <= limit + settings(size_limit=Size(limit)).partition_size + (4 << 20)
    assert len(answers) > 1
    assert 0 < count(tmp_path, "x_m") < 60_000
    assert any("removed" in note for note in notes)
    assert store.marks([(agent.name, agent.spool)]) == [61]


def test_what_is_too_old_goes(opened: Any, tmp_path: Path) -> None:
    store, agent = opened(retention=Duration(0.2), partition=Duration(0.05)), Agent()
    store.commit([agent.snapshot(COUNTS, ROWS, 10)])
    time.sleep(0.1)
    store.maintain()
    assert count(tmp_path) == 2
    time.sleep(0.3)
    store.maintain()
    assert ask(tmp_path, "SELECT count(*) FROM snapshots") == [(0,)]
    assert store.marks([(agent.name, agent.spool)]) == [1]


def test_a_store_whose_limit_changes_goes_on_with_its_files(tmp_path: Path) -> None:
    agent, notes = Agent(), []
    for at, limit in ((10, 1 << 30), (20, 20 << 30), (30, 1 << 30)):
        store = DuckdbStore(settings(size_limit=Size(limit)), context(tmp_path, notes))
        store.commit([agent.snapshot(COUNTS, ROWS, at)])
        store.close()
    assert (count(tmp_path), notes) == (6, [])


# ---- questions


def test_a_question_goes_by_the_socket_while_a_store_writes_and_to_the_files_without(tmp_path: Path) -> None:
    store = DuckdbStore(settings(), context(tmp_path))
    store.commit([Agent().snapshot(COUNTS, ROWS, 10)])
    for kind, end in ((SocketReader, store.close), (FileReader, lambda: None)):
        reader = open_reader(settings(), context(tmp_path))
        assert type(reader) is kind
        assert reader.query("SELECT comm FROM execve_counts WHERE count > ?", [1]).read_all().num_rows == 1
        reader.close()
        end()


def test_only_the_owner_may_ask_unless_its_group_may(opened: Any, tmp_path: Path) -> None:
    store = opened()
    assert (tmp_path / "duckdb" / "socket").stat().st_mode & 0o777 == 0o600
    store.close()
    store = DuckdbStore(settings(socket_mode="0660"), context(tmp_path))
    assert (tmp_path / "duckdb" / "socket").stat().st_mode & 0o777 == 0o660
    store.close()


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("DROP VIEW agents", "only statements that read"),
        ("COPY agents TO '/tmp/x'", "only statements that read"),
        ("ATTACH '/tmp/x.duckdb'", "only statements that read"),
        ("SET threads = 1", "only statements that read"),
        ("SELECT * FROM force_checkpoint('p1')", "only statements that read"),
        ("EXPLAIN ANALYZE DELETE FROM p1.snapshots", "read-only"),
        ("SELECT * FROM read_text('/etc/passwd')", "disabled by configuration"),
        ("SELECT * FROM '/etc/passwd'", "does not exist"),
        ("SELECT 1; SELECT 2", "one statement"),
        ("", "one statement"),
    ],
)
def test_a_question_can_only_read_what_is_the_stores(
    opened: Any, tmp_path: Path, sql: str, words: str
) -> None:
    store = opened()
    store.commit([Agent().snapshot(COUNTS, ROWS, 10)])
    with pytest.raises(StoreError, match=words):
        ask(tmp_path, sql)
    assert count(tmp_path) == 2


def test_an_error_names_the_place_in_the_engines_words(opened: Any, tmp_path: Path) -> None:
    opened()
    with pytest.raises(StoreError, match=r'(?s)syntax error at or near "selec".*LINE 1: selec 1.*\^'):
        ask(tmp_path, "selec 1")


def test_records_are_stored_while_a_long_question_runs_and_it_ends_with_its_asker(
    opened: Any, tmp_path: Path
) -> None:
    store, agent = opened(questions=1), Agent()
    store.commit([agent.snapshot(COUNTS, ROWS, 10)])
    reader = open_reader(settings(), context(tmp_path))
    answer = reader.query("SELECT r.range FROM range(1000000000) r")
    answer.read_next_batch()
    for at in range(20, 25):
        store.commit([agent.snapshot(COUNTS, ROWS, at)])
    assert store.marks([(agent.name, agent.spool)]) == [6]
    reader.close()
    assert count(tmp_path) == 12  # the only place is free again


def test_a_question_that_takes_too_long_is_ended(opened: Any, tmp_path: Path) -> None:
    opened(question_timeout=Duration(0.3))
    with pytest.raises(StoreError, match=r"took longer than 0\.3 s"):
        ask(tmp_path, SLOW)


def test_an_answer_with_too_many_rows_is_ended(opened: Any, tmp_path: Path) -> None:
    opened(question_rows=50_000)
    with pytest.raises(StoreError, match="more than 50,000 rows"):
        ask(tmp_path, "SELECT * FROM range(100000)")


def test_a_place_without_a_store_is_said(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no store here"):
        open_reader(settings(), context(tmp_path))


# ---- functions


@pytest.mark.parametrize(
    ("counts", "q", "wanted"),
    [
        ("[10, 0, 0]", 0.5, 1.0),
        ("[0, 10, 0]", 0.0, 2.0),
        ("[0, 10, 0]", 0.5, 3.0),
        ("[0, 10, 10]", 1.0, 8.0),
        ("[5, 0, 5]", 0.75, 6.0),
        ("[0, 0]", 0.5, None),
        ("NULL::UBIGINT[]", 0.5, None),
    ],
)
def test_a_quantile_is_interpolated_inside_its_slot(
    opened: Any, tmp_path: Path, counts: str, q: float, wanted: float | None
) -> None:
    opened()
    assert ask(tmp_path, f"SELECT histogram_quantile({counts}, {q})") == [(wanted,)]

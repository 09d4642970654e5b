"""Whatever lies in a spool's place, the agent starts; what is known to be lost is told."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bpfleet import SinkError
from bpfleet_plugins.sinks.spool import Spool
from sample_records import ORIGIN, frame, large_frame
from spools import gaps, items, open_spool, seqs

FILE = "test.sqlite"


def fill(folder: Path, records: int = 20, settled: int = 5) -> str:
    """A spool in which records `settled` + 1 … `records` wait; returns its id."""
    spool = open_spool(folder)
    spool.take([large_frame(seq, 20) for seq in range(1, records + 1)])
    spool.confirmed(settled, spool.id)
    number = spool.id
    spool.close()
    return number


def overwrite(path: Path) -> None:
    path.write_bytes(b"this is no SQLite file" * 1000)


def empty_pages(path: Path) -> None:
    """Every page but the first, which has the table of contents."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(size - 4096))


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2 // 4096 * 4096 + 100)


def a_later_version(path: Path) -> None:
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version = 9")
    database.close()


def somebody_elses(path: Path) -> None:
    path.unlink()
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE recipes (name)")
    database.close()


def without_a_table(path: Path) -> None:
    database = sqlite3.connect(path)
    database.execute("DROP TABLE records")
    database.close()


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "something").touch()


def a_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def a_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/passwd")


def foreign(path: Path) -> None:
    os.chown(path, 65534, 65534)


DAMAGES = [
    overwrite,
    empty_pages,
    cut,
    a_later_version,
    somebody_elses,
    without_a_table,
    a_folder,
    a_fifo,
    a_link,
    foreign,
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda one: one.__name__)
def test_what_can_not_be_used_is_set_aside_and_a_gap_tells_what_waited(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None]
) -> None:
    before = fill(tmp_path)
    damage(tmp_path / FILE)
    spool = open_spool(tmp_path)
    items(spool)  # some damage shows only when records are read
    spool.take([frame(21)])
    assert spool.id != before
    (found,) = gaps(spool)
    assert (found.origin, found.first, found.last, found.count) == (ORIGIN, 6, 20, 15)
    assert found.reason == "spool_damaged"
    assert seqs(spool) == [21]
    (aside,) = tmp_path.glob(f"{FILE}.damaged-*")
    (said,) = [one.getMessage() for one in caplog.records]
    assert str(tmp_path / FILE) in said
    assert str(aside) in said
    spool.close()
    again = open_spool(tmp_path)
    assert again.id != before
    assert seqs(again) == [21], "the new one is kept"
    again.close()


def test_a_file_that_was_removed_is_told_too(tmp_path: Path) -> None:
    fill(tmp_path)
    (tmp_path / FILE).unlink()
    spool = open_spool(tmp_path)
    (found,) = gaps(spool)
    assert (found.first, found.last) == (6, 20)
    spool.close()


def test_nothing_is_told_where_nothing_waited(tmp_path: Path) -> None:
    fill(tmp_path, records=20, settled=20)
    overwrite(tmp_path / FILE)
    spool = open_spool(tmp_path)
    assert items(spool) == []
    spool.close()


@pytest.mark.parametrize("also", ["marks", "lock", "reserve"])
def test_the_files_beside_it_may_be_anything(tmp_path: Path, also: str) -> None:
    fill(tmp_path)
    (tmp_path / f"test.{also}").write_bytes(os.urandom(5000))
    overwrite(tmp_path / FILE)
    spool = open_spool(tmp_path)
    spool.take([frame(21)])
    assert seqs(spool) == [21]
    spool.close()


def test_a_bounded_number_of_damaged_files_is_kept(tmp_path: Path) -> None:
    for turn in range(6):
        fill(tmp_path)
        (tmp_path / f"{FILE}-wal").write_bytes(b"of a crash")
        (tmp_path / FILE).write_bytes(b"damage %d" % turn)
    open_spool(tmp_path).close()
    kept = [one for one in tmp_path.glob(f"{FILE}.damaged-*") if not one.name.endswith("-wal")]
    assert sorted(one.read_bytes() for one in kept) == [b"damage 4", b"damage 5"]
    assert len(list(tmp_path.glob("*-wal"))) <= 2


def damaged_while_open(folder: Path) -> Spool:
    """A spool with records, whose pages are overwritten behind its back; nothing of it is in memory."""
    spool = open_spool(folder)
    spool.take([large_frame(seq, 100) for seq in range(1, 41)])
    spool.confirmed(10, spool.id)
    spool._file.checkpoint()
    spool._file.db.execute("PRAGMA shrink_memory").fetchall()
    empty_pages(folder / FILE)
    return spool


def test_damage_met_while_reading_begins_another_spool(tmp_path: Path) -> None:
    spool = damaged_while_open(tmp_path)
    before = spool.id
    items(spool)
    assert spool.id != before
    (found,) = gaps(spool)
    assert (found.first, found.last, found.reason) == (11, 40, "spool_damaged")
    spool.take([frame(41)])
    assert seqs(spool) == [41]
    spool.close()


def test_damage_met_while_writing_loses_none_of_what_is_written(tmp_path: Path) -> None:
    spool = damaged_while_open(tmp_path)
    for seq in range(41, 60):
        spool.take([large_frame(seq, 100)])
    assert seqs(spool)[-1] == 59
    found = gaps(spool)
    lost = {seq for one in found for seq in range(one.first, one.last + 1)}
    assert lost | set(seqs(spool)) >= set(range(11, 60))
    spool.close()


def test_a_confirmation_of_a_numbering_that_is_over_deletes_nothing(tmp_path: Path) -> None:
    spool = damaged_while_open(tmp_path)
    before = spool.id
    items(spool)
    spool.take([frame(41)])
    spool.confirmed(40, before)
    assert seqs(spool) == [41]
    assert spool.page(0, 10, 1000, before) == []
    spool.close()


# ---- who may have it


def test_a_second_agent_on_one_spool_is_refused(tmp_path: Path) -> None:
    first = open_spool(tmp_path)
    with pytest.raises(SinkError, match="another agent uses this spool") as caught:
        open_spool(tmp_path)
    assert "state directory of its own" in caught.value.remedy
    first.take([frame(1)])
    assert seqs(first) == [1]
    first.close()
    open_spool(tmp_path).close()


def test_a_reader_that_has_it_open_is_no_damage(tmp_path: Path) -> None:
    """Somebody looks with sqlite3: the spool waits for them, and is not set aside."""
    fill(tmp_path)
    database = sqlite3.connect(tmp_path / FILE)
    database.execute("BEGIN EXCLUSIVE")
    with pytest.raises(SinkError, match="can't be used: database is locked"):
        open_spool(tmp_path)
    database.close()
    spool = open_spool(tmp_path)
    assert seqs(spool) == list(range(6, 21))
    spool.close()


def test_a_user_without_rights_is_told_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir(mode=0o755)
    code = f"""
import os, sys
from pathlib import Path
from bpfleet_plugins.sinks.spool import Spool
from bpfleet.errors import PrivilegeError
os.setresuid(65534, 65534, 65534)
try:
    path = Path({str(tmp_path / "spool" / FILE)!r})
    Spool(path, "nobody", "test", size=1 << 24, age=1.0, sync_interval=1.0)
except PrivilegeError as error:
    print(error)
"""
    for folder in (tmp_path, *tmp_path.parents):
        if folder.is_relative_to("/tmp"):
            folder.chmod(folder.stat().st_mode | 0o055)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "user 'nobody' can't keep a spool: Permission denied" in done.stdout
    assert f"chown -R nobody {tmp_path / 'spool'}" in done.stdout

"""A spool restored from a backup: it finds out, loses nothing, repeats nothing."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from aggregator_process import AggregatorProcess
from bpfleet.wire import Gap, Origin
from bpfleet_plugins.sinks.spool import Spool
from bpfleet_plugins.sinks.zmq import ZmqSettings, ZmqSink
from sample_records import AGENT, context, frame, large_frame
from spools import items, open_spool, records, seqs

BEFORE, AFTER = (Origin(AGENT, "web1", "boot-1", run) for run in (1_000_000_000, 9_000_000_000))


def deliver(spool: Spool, mark: int, count: int = 1000) -> tuple[int, list[object]]:
    """As an aggregator whose mark it is takes them: (its mark then, what is new to it)."""
    new = [one for one in zip(items(spool), records(spool), strict=True) if one[0].seq > mark][:count]
    if not new:
        return mark, []
    spool.confirmed(new[-1][0].seq, spool.id)
    return new[-1][0].seq, [record for _, record in new]


class Backup:
    """A spool that was copied while records 6 … 10 waited; the original then delivered 1 … `last`."""

    def __init__(self, folder: Path, last: int) -> None:
        self.folder, self.copy = folder / "spool", folder / "copy"
        spool = open_spool(self.folder)
        assert spool.heard(0, spool.id)
        spool.take([frame(seq, origin=BEFORE) for seq in range(1, 11)])
        self.mark, first = deliver(spool, 0, 5)
        spool.close()
        shutil.copytree(self.folder, self.copy)
        spool = open_spool(self.folder)
        self.id = spool.id
        assert spool.heard(self.mark, spool.id)
        spool.take([frame(seq, origin=BEFORE) for seq in range(11, last + 1)])
        self.mark, then = deliver(spool, self.mark)
        self.stored = [(one.origin.run, one.seq) for one in [*first, *then]]  # type: ignore[attr-defined]
        assert [seq for _, seq in self.stored] == list(range(1, last + 1))
        spool.close()

    def restore(self) -> Spool:
        shutil.rmtree(self.folder)
        shutil.copytree(self.copy, self.folder)
        return open_spool(self.folder)


@pytest.fixture
def backup(tmp_path: Path) -> Backup:
    return Backup(tmp_path, 20)


@pytest.mark.parametrize("new", [0, 3, 50], ids=lambda n: f"{n}-new")
def test_what_was_delivered_is_left_out_and_what_is_new_goes_on_under_another_id(
    backup: Backup, new: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where so many are new that the highest number is beyond what the aggregator has."""
    spool = backup.restore()
    assert spool.id == backup.id
    assert seqs(spool) == [6, 7, 8, 9, 10]
    spool.take([frame(seq, origin=AFTER) for seq in range(1, new + 1)])
    with caplog.at_level(logging.WARNING):
        assert not spool.heard(backup.mark, spool.id)
    assert spool.id != backup.id
    assert seqs(spool) == list(range(1, new + 1)), "nothing is lost, nothing is repeated"
    assert not [one for one in records(spool) if isinstance(one, Gap)]
    (said,) = [one.getMessage() for one in caplog.records]
    assert "as if restored from a backup" in said
    assert f"5 records that were delivered then are left out, {new} wait" in said
    assert spool.heard(0, spool.id), "the new numbering is its own"
    spool.close()
    again = open_spool(backup.folder)
    assert seqs(again) == list(range(1, new + 1))
    again.close()


def test_a_restored_spool_that_is_opened_again_before_it_is_heard_knows_what_is_new(backup: Backup) -> None:
    spool = backup.restore()
    spool.take([frame(seq, origin=AFTER) for seq in range(1, 4)])
    spool.close()
    for _ in range(3):
        spool = open_spool(backup.folder)
        spool.close()
    spool = open_spool(backup.folder)
    spool.take([frame(4, origin=AFTER)])
    assert not spool.heard(backup.mark, spool.id)
    assert seqs(spool) == [1, 2, 3, 4]
    spool.close()


def test_a_spool_of_which_nothing_was_delivered_since_the_backup_just_goes_on(tmp_path: Path) -> None:
    backup = Backup(tmp_path, 10)
    spool = backup.restore()
    spool.take([frame(1, origin=AFTER)])
    assert spool.heard(backup.mark, spool.id)
    assert spool.id == backup.id
    mark, found = deliver(spool, backup.mark)
    assert mark > backup.mark
    assert [one.seq for one in found] == [1]  # type: ignore[attr-defined]
    spool.close()


def test_an_ordinary_restart_is_no_restore(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    number, mark = spool.id, 0
    for turn in range(4):
        assert spool.heard(mark, spool.id)
        spool.take([frame(turn * 5 + n, origin=BEFORE) for n in range(1, 6)])
        mark, _ = deliver(spool, mark, 3)
        if turn % 2:
            spool.close()
        else:
            spool._let_go()  # killed
        spool = open_spool(tmp_path)
    assert spool.heard(mark, spool.id)
    assert spool.id == number
    assert seqs(spool) == list(range(13, 21)), "what had not been delivered waits"
    spool.close()


def test_another_peers_word_of_an_older_numbering_changes_nothing(backup: Backup) -> None:
    spool = backup.restore()
    spool.take([frame(1, origin=AFTER)])
    before = items(spool)
    assert not spool.heard(1 << 40, "another")
    assert items(spool) == before
    spool.close()


def test_over_the_wire_an_aggregator_stores_each_record_once(
    start_aggregator: Callable[..., AggregatorProcess], shared_path: Path
) -> None:
    aggregator = start_aggregator()
    agent = shared_path / "agent"
    copy = shared_path / "copy"

    def opened() -> ZmqSink:
        return ZmqSink(ZmqSettings(endpoints=(aggregator.endpoint,), backoff=0.05), context(agent))

    sink = opened()
    sink.write([frame(seq, origin=BEFORE) for seq in range(1, 11)])
    aggregator.stored(10)
    sink.close()
    shutil.copytree(agent, copy)
    sink = opened()
    sink.write([frame(seq, origin=BEFORE) for seq in range(11, 31)])
    aggregator.stored(30)
    sink.close()
    shutil.rmtree(agent)
    shutil.copytree(copy, agent)
    sink = opened()
    sink.write([frame(seq, {"new": seq}, origin=AFTER) for seq in range(1, 6)])
    rows = aggregator.stored(35)
    sink.write([large_frame(6, 20, origin=AFTER)])
    rows = aggregator.stored(36)
    sink.close()
    assert len(rows) == 36
    assert len({row[1] for row in rows[:30]}) == 1
    (another,) = {row[1] for row in rows[30:]}
    assert another != rows[0][1]
    assert sum(b"new" in row[4] for row in rows) == 5
    assert "was the agent's state restored from a copy?" in aggregator.said

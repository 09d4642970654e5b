"""The spool: what is taken stays until it is confirmed, in order, its numbers are never given twice."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from bpfleet import Frame
from bpfleet.wire import Gap, Origin, encode_gap, encode_status
from sample_records import AGENT, COUNTS_FRAME, ORIGIN, frame, gap, large_frame, status, with_schemas
from spools import gaps, items, on_disk, open_spool, records, seqs, told

LATER = Origin(AGENT, "web1", "boot-1", 2_000_000_000)
"""The same agent, started again."""


def some(first: int, last: int, origin: Origin = ORIGIN) -> list[Frame]:
    return [frame(seq, origin=origin) for seq in range(first, last + 1)]


# ---- numbers and order


def test_what_is_taken_comes_out_in_order_with_numbers_from_one(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    spool.take([*with_schemas(some(1, 3)), encode_gap(gap(4, 1, 2)), encode_status(status(4))])
    assert [(one.seq, one.kind) for one in items(spool)] == [
        (1, "snapshot"),
        (2, "snapshot"),
        (3, "snapshot"),
        (4, "gap"),
        (5, "status"),
    ]
    assert seqs(spool) == [1, 2, 3, 4]
    assert (spool.first, len(spool)) == (1, 5)
    spool.close()


def test_what_is_confirmed_is_gone_and_the_rest_is_there_after_a_restart(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    spool.take(some(1, 10))
    spool.confirmed(4, spool.id)
    number = spool.id
    spool.close()
    again = open_spool(tmp_path)
    assert again.id == number
    assert [one.seq for one in items(again)] == [5, 6, 7, 8, 9, 10]
    assert seqs(again) == [5, 6, 7, 8, 9, 10]
    again.close()


def test_a_number_is_never_given_twice_even_after_everything_was_delivered(tmp_path: Path) -> None:
    given_so_far = 0
    for turn in range(5):
        spool = open_spool(tmp_path)
        spool.take(some(turn * 3 + 1, turn * 3 + 3))
        numbers = [one.seq for one in items(spool)]
        assert min(numbers) > given_so_far
        given_so_far = max(numbers)
        spool.confirmed(given_so_far, spool.id)
        assert len(spool) == 0
        spool.close()


def test_records_that_were_taken_before_are_not_taken_again(tmp_path: Path) -> None:
    """A worker that dies between spooling and saying so is offered them once more."""
    spool = open_spool(tmp_path)
    spool.take(some(1, 5))
    spool.confirmed(2, spool.id)
    spool.take(some(1, 7))
    assert seqs(spool) == [3, 4, 5, 6, 7]
    spool.close()
    again = open_spool(tmp_path)
    again.take(some(1, 8))
    assert seqs(again) == [3, 4, 5, 6, 7, 8]
    again.close()


def test_that_they_were_taken_is_remembered_after_all_of_them_were_delivered(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    spool.take(some(1, 5))
    spool.confirmed(spool.last, spool.id)
    spool.close()
    again = open_spool(tmp_path)
    again.take(some(4, 6))
    assert seqs(again) == [6]
    again.close()


def test_a_number_that_was_used_before_power_was_lost_is_used_up(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    spool.take(some(1, 5))
    used = items(spool)[-1].seq
    content = (tmp_path / "test.sqlite").read_bytes()
    spool._let_go()
    # The log is lost whole; the file is written by checkpoints only, which force it to the disk.
    (tmp_path / "test.sqlite-wal").unlink(missing_ok=True)
    (tmp_path / "test.sqlite").write_bytes(content)
    again = open_spool(tmp_path)
    again.take(some(1, 1, LATER))
    assert items(again)[0].seq > used
    again.close()


def test_a_restarts_gap_tells_only_of_what_is_not_in_the_spool(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    spool.take(some(1, 5))
    lost = Gap(origin=ORIGIN, seq=9, first=4, last=8, count=5, reason="worker_restart", sink="test", t1=1)
    spool.take([encode_gap(lost), *some(9, 9)])
    (found,) = gaps(spool)
    assert (found.first, found.last, found.count, found.reason) == (6, 8, 3, "worker_restart")
    held = Gap(origin=ORIGIN, seq=10, first=8, last=9, count=2, reason="worker_restart", sink="test", t1=1)
    spool.take([encode_gap(held), *some(10, 10)])
    assert len(gaps(spool)) == 1, "all of it was spooled"
    spool.close()


def test_another_run_of_the_agent_counts_from_one_again(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    spool.take(some(1, 3))
    spool.take(some(1, 2, LATER))
    assert [(one.origin.run, one.seq) for one in records(spool) if not isinstance(one, Gap)] == [  # type: ignore[union-attr]
        (ORIGIN.run, 1),
        (ORIGIN.run, 2),
        (ORIGIN.run, 3),
        (LATER.run, 1),
        (LATER.run, 2),
    ]
    spool.close()


def test_a_schema_is_kept_once_by_its_content_and_goes_with_its_records(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    spool.take(some(1, 3))
    numbers = {one.schema for one in items(spool)}
    assert len(numbers) == 1
    assert spool.schema(numbers.pop(), spool.id) == COUNTS_FRAME.data
    spool.confirmed(3, spool.id)
    spool.close()
    again = open_spool(tmp_path)
    again.take(some(4, 4))
    (item,) = items(again)
    assert again.schema(item.schema, again.id) == COUNTS_FRAME.data
    again.close()


def test_pages_are_small_however_much_waits(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    spool.take([large_frame(seq, 100) for seq in range(1, 41)])
    page = spool.page(0, 1000, 1 << 20, spool.id)
    assert 5 < len(page) <= 10
    assert len(spool.page(0, 1000, 1, spool.id)) == 1, "one record at least, however large"
    assert len(spool.page(0, 3, 1 << 20, spool.id)) == 3
    spool.close()


def test_what_write_returned_for_survives_sigkill(tmp_path: Path) -> None:
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from sample_records import frame
from spools import open_spool
spool = open_spool(Path({str(tmp_path / "spool")!r}))
for seq in range(1, 100_000):
    spool.take([frame(seq)])
    print(seq, flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        for line in writer.stdout:
            if int(line) == 200:
                writer.send_signal(signal.SIGKILL)
                break
        said = [200, *(int(line) for line in writer.stdout if line.endswith("\n"))][-1]
    spool = open_spool(tmp_path / "spool")
    found = seqs(spool)
    assert found == list(range(1, len(found) + 1))
    assert len(found) >= said
    before = spool.last
    spool.take(some(len(found) + 1, len(found) + 1))
    assert items(spool)[-1].seq > max(before - 1, len(found)), "numbers go on"
    spool.close()


# ---- bounds


def test_a_full_spool_drops_the_oldest_and_a_gap_in_their_place_tells(tmp_path: Path) -> None:
    spool = open_spool(tmp_path, size=4 << 20)
    for seq in range(1, 201):
        spool.take([large_frame(seq, 60)])
        assert on_disk(tmp_path) < 4.3 * (1 << 20)
    kept = seqs(spool)
    assert kept == list(range(kept[0], 201))
    assert len(kept) > 30
    first, *_ = records(spool)
    assert isinstance(first, Gap), "it comes before what follows the lost ones"
    assert (first.first, first.last, first.count, first.reason) == (1, kept[0] - 1, kept[0] - 1, "spool_full")
    assert first.sink == "test"
    assert len(gaps(spool)) == 1, "one for all that was dropped"
    assert spool.state()["dropped"] == kept[0] - 1
    spool.close()


def test_each_run_of_an_agent_has_a_gap_of_its_own(tmp_path: Path) -> None:
    spool = open_spool(tmp_path, size=4 << 20)
    for origin in (ORIGIN, LATER):
        for seq in range(1, 61):
            spool.take([large_frame(seq, 60, origin=origin)])
    first, second = gaps(spool)
    assert (first.origin, first.first, first.last) == (ORIGIN, 1, 60)
    assert (second.origin, second.first) == (LATER, 1)
    kept = seqs(spool)
    assert kept == list(range(second.last + 1, 61))
    assert [type(one).__name__ for one in records(spool)[:3]] == ["Gap", "Gap", "Snapshot"]
    spool.close()


def test_a_gap_that_is_dropped_is_told_by_the_one_in_its_place(tmp_path: Path) -> None:
    spool = open_spool(tmp_path, size=4 << 20)
    spool.take([encode_gap(gap(11, 1, 10)), large_frame(11, 60)])
    for seq in range(12, 120):
        spool.take([large_frame(seq, 60)])
    found = gaps(spool)
    kept = seqs(spool)
    assert {one.reason for one in found} == {"queue_full", "spool_full"}
    assert set(told(found)) | set(kept) == set(range(1, 120))
    assert sum(one.count for one in found) == kept[0] - 1
    spool.close()


def test_a_record_that_is_larger_than_the_spool_is_told_and_drops_no_other(tmp_path: Path) -> None:
    spool = open_spool(tmp_path, size=1 << 20)
    spool.take([frame(1), large_frame(2, 900), frame(3)])
    assert seqs(spool) == [1, 3]
    (found,) = gaps(spool)
    assert (found.first, found.last, found.reason) == (2, 2, "spool_full")
    spool.close()


def test_what_is_too_old_goes_and_a_gap_tells(tmp_path: Path) -> None:
    spool = open_spool(tmp_path, age=0.5)
    spool.take(some(1, 5))
    spool.tend()
    assert seqs(spool) == [1, 2, 3, 4, 5]
    time.sleep(0.6)
    spool.take(some(6, 7))
    spool.tend()
    spool.tend()
    assert seqs(spool) == [6, 7]
    (found,) = gaps(spool)
    assert (found.first, found.last, found.reason) == (1, 5, "spool_age")
    spool.close()


def test_a_clock_that_jumps_ages_no_record_of_this_boot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    origin = Origin(AGENT, "web1", boot, 1)
    spool = open_spool(tmp_path, age=60.0)
    now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    spool.take([frame(1, origin=origin, t1=now), frame(2, origin=origin, t1=now)])
    wall = time.time
    monkeypatch.setattr(time, "time", lambda: wall() + 30 * 365 * 86400)
    spool.tend()
    assert seqs(spool) == [1, 2]
    spool.close()


def test_an_empty_spool_gives_its_room_back(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    spool.take([large_frame(seq, 60) for seq in range(1, 150)])
    assert on_disk(tmp_path) > 8 << 20
    spool.confirmed(spool.last, spool.id)
    spool.tend()
    assert on_disk(tmp_path) < 3 << 20
    spool.close()


# ---- refusals


def test_a_refused_record_leaves_and_a_gap_with_a_new_number_tells(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    spool.take(some(1, 3))
    second = items(spool)[1]
    spool.give_up(second, spool.id)
    assert [(one.seq, one.kind) for one in items(spool)] == [(1, "snapshot"), (3, "snapshot"), (4, "gap")]
    (found,) = gaps(spool)
    assert (found.first, found.last, found.count, found.reason) == (2, 2, 1, "refused")
    spool.give_up(second, spool.id)
    assert len(gaps(spool)) == 1, "it had gone already"
    spool.close()


def test_a_refusal_of_what_a_gap_has_replaced_changes_nothing(tmp_path: Path) -> None:
    spool = open_spool(tmp_path, age=0.2)
    spool.take(some(1, 3))
    third = items(spool)[2]
    time.sleep(0.3)
    spool.tend()
    (item,) = items(spool)
    assert (item.seq, item.kind) == (third.seq, "gap")
    spool.give_up(third, spool.id)
    assert len(gaps(spool)) == 1
    spool.close()


def test_the_state_says_what_waits(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    assert spool.state() | {"bytes": 0} == {"records": 0, "bytes": 0, "oldest_s": 0.0, "dropped": 0}
    spool.take([large_frame(seq, 60) for seq in range(1, 11)])
    state = spool.state()
    assert state["records"] == 10
    assert 600_000 < state["bytes"] < 900_000
    assert state["oldest_s"] >= 0
    spool.close()


# ---- everything at once


class Anything(RuleBasedStateMachine):
    """Takes, confirmations, refusals, bounds and restarts in any order."""

    @initialize()
    def begin(self) -> None:
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.spool = open_spool(Path(self.folder.name), size=1 << 20)
        self.made = 0
        self.run = 1
        self.highest = 0
        """The highest number seen so far."""
        self.settled: set[tuple[int, int]] = set()
        """(run, seq) of what was delivered."""
        self.told: set[tuple[int, int]] = set()
        """Of gaps that were delivered."""
        self.durable = 0
        """The aggregator's mark."""
        self.given: dict[int, tuple[int, int]] = {}
        """What each number was first seen to mean, of all that is no gap."""
        self.forgotten: set[tuple[int, int]] = set()
        """What losses of power have cost."""
        self.brought_back: set[tuple[int, int]] = set()
        """What was delivered, and may be here again after a loss of power."""
        self.taken: dict[tuple[int, int], int] = {}
        """(run, seq), and how large it was."""

    @rule(count=st.integers(1, 12), kilobytes=st.sampled_from([1, 20, 90, 800]))
    def take(self, count: int, kilobytes: int) -> None:
        origin = Origin(AGENT, "web1", "boot-1", self.run)
        frames = [large_frame(self.made + n, kilobytes, origin=origin) for n in range(1, count + 1)]
        self.spool.take(frames)
        self.made += count
        self.taken |= {(self.run, one.seq): kilobytes for one in frames}

    @rule()
    def offer_again(self, back: int = 6) -> None:
        """As after a write that failed, or a worker that was killed before it could say so."""
        again = [(seq, size) for (run, seq), size in self.taken.items() if run == self.run][-back:]
        before = [one for one in items(self.spool) if one.kind != "gap"]
        origin = Origin(AGENT, "web1", "boot-1", self.run)
        self.spool.take([large_frame(seq, size, origin=origin) for seq, size in again])
        after = [one for one in items(self.spool) if one.kind != "gap"]
        # What was larger than the spool is told of, and never was in it.
        assert [one for one in after if one not in before] == [], "it was there already, or had left for good"

    @rule(count=st.integers(1, 30))
    def arrive(self, count: int) -> None:
        """Records become durable, and the word of it is lost: what takes a lower number is not heard of."""
        page = self.spool.page(0, count, 1 << 30, self.spool.id)
        for item, record in zip(page, records(self.spool), strict=False):
            self._delivered(item.seq, record)
        self.brought_back |= self.settled

    @rule(count=st.sampled_from([1, 5, 30, 1000, 1000]))
    def confirm(self, count: int) -> None:
        page = self.spool.page(0, count, 1 << 30, self.spool.id)
        held = records(self.spool)
        assert len(page) == min(count, len(held)), "all that waits is sent"
        for item, record in zip(page, held, strict=False):
            self._delivered(item.seq, record)
            self.highest = max(self.highest, item.seq)
        if page:
            self.spool.confirmed(page[-1].seq, self.spool.id)
            assert self.spool.first > page[-1].seq
            assert len(self.spool) == len(held) - len(page)

    @rule(number=st.integers(1, 1 << 20))
    def hear_of_another_numbering(self, number: int) -> None:
        """An answer to what an older file had sent."""
        waiting = items(self.spool)
        self.spool.confirmed(number, "another")
        if waiting:
            self.spool.give_up(waiting[0], "another")
        assert self.spool.page(0, 9, 1 << 20, "another") == []
        assert items(self.spool) == waiting

    def _delivered(self, number: int, record: object) -> None:
        if number <= self.durable:
            return
        self.durable = number
        if isinstance(record, Gap):
            self.told |= {(record.origin.run, seq) for seq in range(record.first, record.last + 1)}
        else:
            self.settled.add((record.origin.run, record.seq))  # type: ignore[attr-defined]

    @rule(at=st.integers(0, 20))
    def refuse(self, at: int) -> None:
        found = items(self.spool)
        at %= max(1, len(found))
        if found and found[at].kind != "gap" and found[at].seq > self.durable:
            self.spool.give_up(found[at], self.spool.id)
            left = items(self.spool)
            assert [one for one in left if one.seq == found[at].seq] == []
            assert left[-1].seq > found[-1].seq, "the gap has a number of its own"

    @rule()
    def reopen(self) -> None:
        self.spool.close()
        self.spool = open_spool(Path(self.folder.name), size=1 << 20)
        self.offer_again()

    @rule()
    def die_and_reopen(self) -> None:
        """As after SIGKILL: nothing is written at the end."""
        self.spool._let_go()
        self.spool = open_spool(Path(self.folder.name), size=1 << 20)
        self.offer_again()

    @rule()
    def lose_power(self) -> None:
        """What was not forced to the disk is gone, a number that was used is used up all the same."""
        folder = Path(self.folder.name)
        # The file is written by checkpoints only, which force it to the disk; the log may be lost whole.
        content = (folder / "test.sqlite").read_bytes()
        self.spool._let_go()
        (folder / "test.sqlite-wal").unlink(missing_ok=True)
        (folder / "test.sqlite").write_bytes(content)
        self.spool = open_spool(folder, size=1 << 20)
        self.highest = 0  # what was confirmed may be there again
        self.run += 1
        self.brought_back |= self.settled
        self.forgotten |= self.taken.keys() - self._accounted_for()

    @rule()
    def start_another_run(self) -> None:
        self.run += 1

    @invariant()
    def order_is_kept_and_nothing_vanishes_without_a_gap(self) -> None:
        found = items(self.spool)
        numbers = [one.seq for one in found]
        assert numbers == sorted(set(numbers))
        assert not numbers or numbers[0] > self.highest, "a number was given twice"
        assert len(self.spool) == len(found)
        held = records(self.spool)
        here = [(one.origin.run, one.seq) for one in held if not isinstance(one, Gap)]  # type: ignore[union-attr]
        assert [seq for _, seq in here] == sorted(seq for _, seq in here), "seq goes on over runs here"
        assert self.taken.keys() - self.forgotten <= self._accounted_for()
        for item, record in zip(found, held, strict=True):
            if item.schema:
                assert self.spool.schema(item.schema, self.spool.id) == COUNTS_FRAME.data
            if not isinstance(record, Gap):
                assert item.schema
                meant = (record.origin.run, record.seq)  # type: ignore[union-attr]
                assert self.given.setdefault(item.seq, meant) == meant, "a number was given twice"
        for one in gaps(self.spool):
            assert 1 <= one.count <= one.last - one.first + 1
            ends = {(one.origin.run, one.first), (one.origin.run, one.last)}
            assert not ends & (self.settled - self.brought_back), "it tells of what was delivered"
        assert on_disk(Path(self.folder.name)) < 1.7 * (1 << 20)

    def _accounted_for(self) -> set[tuple[int, int]]:
        """(run, seq) of all that was delivered, or will be; itself, or told of by a gap of the same run."""
        held = zip(items(self.spool), records(self.spool), strict=True)
        coming = [record for item, record in held if item.seq > self.durable]
        lost = [one for one in coming if isinstance(one, Gap)]
        here = {(one.origin.run, one.seq) for one in coming if one not in lost}  # type: ignore[union-attr]
        gone = {(one.origin.run, seq) for one in lost for seq in range(one.first, one.last + 1)}
        return self.settled | self.told | here | gone

    def teardown(self) -> None:
        self.spool.close()
        self.folder.cleanup()


Anything.TestCase.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
test_anything = Anything.TestCase

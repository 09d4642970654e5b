"""A disk that is full, for real: what is spooled is delivered and deleted, and room heals all of it."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bpfleet import SinkError, SinkFull
from bpfleet_plugins.sinks.spool import Spool
from sample_records import frame, large_frame
from spools import gaps, items, open_spool, seqs


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


def fill_up(disk: Path) -> Path:
    """Let something else take all the room that is left."""
    hog = disk / "hog"
    with hog.open("ab", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                pass
    assert os.statvfs(disk).f_bavail == 0
    return hog


def take_until_full(
    spool: Spool, first: int = 1, *, said: str = "No space left|is full", remedy: str = "free some space"
) -> int:
    """Spool records of 60 kB until it takes no more; the last that it took."""
    seq = first

    def take() -> None:
        nonlocal seq
        for seq in range(first, 1000):
            spool.take([large_frame(seq, 60)])

    with pytest.raises(SinkFull, match=said) as caught:
        take()
    assert remedy in caught.value.remedy
    return seq - 1


def test_a_full_disk_is_not_now_and_loses_nothing(disk: Path) -> None:
    spool = open_spool(disk / "spool", size=64 << 20)
    last = take_until_full(spool)
    assert last > 100
    for _ in range(3):
        with pytest.raises(SinkFull):
            spool.take([large_frame(last + 1, 60)])
    assert seqs(spool) == list(range(1, last + 1))
    assert gaps(spool) == []
    spool.close()
    again = open_spool(disk / "spool", size=64 << 20)
    assert seqs(again) == list(range(1, last + 1))
    again.close()


@pytest.mark.parametrize("at_once", [1, 8, 10_000])
def test_what_is_delivered_is_deleted_on_a_full_disk_and_makes_room(disk: Path, at_once: int) -> None:
    spool = open_spool(disk / "spool", size=64 << 20)
    last = take_until_full(spool)
    fill_up(disk)
    before = [one.seq for one in items(spool)]
    for at in range(0, len(before) - 5, at_once):
        spool.confirmed(before[: len(before) - 5][at : at + at_once][-1], spool.id)
    assert len(spool) == 5
    assert seqs(spool) == list(range(last - 4, last + 1))
    spool.close()
    again = open_spool(disk / "spool", size=64 << 20)
    assert seqs(again) == list(range(last - 4, last + 1)), "deleted for good"
    again.close()


def test_it_heals_by_itself_when_there_is_room_again(disk: Path) -> None:
    spool = open_spool(disk / "spool", size=64 << 20)
    spool.take([large_frame(seq, 60) for seq in range(1, 50)])
    hog = fill_up(disk)
    take_until_full(spool, 50)
    had = seqs(spool)
    spool.confirmed(20, spool.id)
    hog.unlink()
    spool.take([large_frame(had[-1] + 1, 60)])
    assert seqs(spool) == list(range(21, had[-1] + 2))
    spool.close()


def test_a_disk_that_was_full_from_the_beginning_is_not_now(disk: Path) -> None:
    hog = fill_up(disk)
    with pytest.raises(SinkError, match="spool can't be"):
        open_spool(disk / "spool")
    hog.unlink()
    spool = open_spool(disk / "spool")
    spool.take([frame(1)])
    assert seqs(spool) == [1]
    spool.close()


def test_a_spool_is_opened_and_emptied_on_a_full_disk(disk: Path) -> None:
    spool = open_spool(disk / "spool")
    spool.take([large_frame(seq, 60) for seq in range(1, 40)])
    spool.close()
    fill_up(disk)
    spool = open_spool(disk / "spool")
    assert seqs(spool) == list(range(1, 40))
    spool.confirmed(30, spool.id)
    spool.give_up(items(spool)[0], spool.id)
    assert len(spool) == 9
    spool.close()
    again = open_spool(disk / "spool")
    assert seqs(again) == list(range(32, 40))
    (refused,) = gaps(again)
    assert (refused.first, refused.reason) == (31, "refused")
    again.close()


def test_a_spool_of_full_size_on_a_full_disk_drops_no_more_than_it_must(disk: Path) -> None:
    spool = open_spool(disk / "spool", size=8 << 20)
    spool.take([large_frame(seq, 60) for seq in range(1, 200)])
    before = len(seqs(spool))
    hog = fill_up(disk)
    for _ in range(20):
        take_until_full(spool, 200)
    kept = seqs(spool)
    assert len(kept) > before - 10
    hog.unlink()
    spool.take([large_frame(seq, 60) for seq in range(200, 210)])
    kept = seqs(spool)
    (told,) = gaps(spool)
    assert (told.first, told.last) == (1, kept[0] - 1)
    assert kept == list(range(kept[0], 210))
    spool.close()


def test_no_quota_left_is_not_now(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """EDQUOT is simulated, of the reserve: not every kernel has quotas for a file system made here."""
    spool = open_spool(disk / "spool")

    def refuse(fd: int, offset: int, size: int) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    with monkeypatch.context() as patched:
        patched.setattr(os, "posix_fallocate", refuse)
        with pytest.raises(SinkFull, match="quota"):
            spool.take([frame(1)])
    spool.take([frame(1)])
    assert seqs(spool) == [1]
    spool.close()


def test_a_disk_that_may_not_be_written_any_more_is_not_now(disk: Path) -> None:
    spool = open_spool(disk / "spool")
    spool.take([large_frame(seq, 20) for seq in range(1, 11)])
    spool._file.db.execute("PRAGMA query_only = ON")
    with pytest.raises(SinkFull):
        spool.take([frame(11)])
    spool.confirmed(5, spool.id)
    assert [one.seq for one in items(spool)] == [6, 7, 8, 9, 10], "what is confirmed is not sent again"
    assert len(spool) == 5
    spool._file.db.execute("PRAGMA query_only = OFF")
    spool.tend()
    spool.take([frame(11)])
    assert seqs(spool) == [6, 7, 8, 9, 10, 11]
    spool.close()


# ---- a disk that fails


@pytest.fixture
def failing(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """(an ext4 of 64 MiB, what it lies on): a loop device on a file that has no more than 20 MiB of room.

    Beyond these each write of a block is a real I/O error, until what it lies on is enlarged.
    """
    below, place = tmp_path / "below", tmp_path / "failing"
    below.mkdir()
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", below], check=True)
    try:
        image = below / "image"
        image.touch()
        os.truncate(image, 64 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", image], check=True)
        made = subprocess.run(["mount", "-o", "loop,errors=continue", image, place], check=False)
        if made.returncode:
            pytest.skip("no loop device, or no ext4, can be had here")
        try:
            yield place, below
        finally:
            subprocess.run(["umount", place], check=True)
    finally:
        subprocess.run(["umount", "-l", below], check=True)


def test_an_io_error_is_not_now_loses_nothing_and_is_over_when_the_disk_is_mended(
    failing: tuple[Path, Path],
) -> None:
    place, below = failing
    spool = open_spool(place / "spool", size=48 << 20, sync_interval=0.0)
    try:
        last = take_until_full(spool, said="I/O error", remedy="see dmesg")
        assert last > 50
        assert seqs(spool) == list(range(1, last + 1))
        spool.confirmed(20, spool.id)
        assert [one.seq for one in items(spool)] == list(range(21, last + 1)), "delivery goes on meanwhile"
        subprocess.run(["mount", "-o", "remount,size=90m", below], check=True)
        spool.take([large_frame(last + 1, 60)])
        assert seqs(spool) == list(range(21, last + 2))
        assert gaps(spool) == []
    finally:
        spool.close()
    again = open_spool(place / "spool", size=48 << 20)
    assert seqs(again) == list(range(21, last + 2))
    again.close()

"""Draining in the real kernel: every event is a row or is counted, and nothing is both."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bpfleet.draining.book import Book
from drained_maps import Produced, producing, rows

RINGS = ["ringbuf", "perf_event_array"]
KINDS = [*RINGS, "queue", "stack"]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def ample(directory: Path, kind: str, **knobs: int) -> Iterator[Produced]:
    size = 1 << 20 if kind == "ringbuf" else 20_000
    return producing(directory, kind, size, perf_buffer=1 << 20, **knobs)  # type: ignore[return-value]


def test_each_event_is_one_row_once(kind: str, tmp_path: Path) -> None:
    with ample(tmp_path, kind, rounds=5000) as made:  # type: ignore[attr-defined]
        drainer = made.open()
        assert drainer.method == "drain"
        for turn in range(3):
            made.produce()
            got = rows(drainer)
            numbers = [row["number"] for row in got]
            wanted = list(range(turn * 5000, turn * 5000 + 5000))
            assert numbers == (wanted[::-1] if kind == "stack" else wanted)
            assert [row["event_number"] for row in got] == [number + 1 for number in wanted]
            assert all(row["twice"] == row["number"] * 2 and row["word"] == b"hello world" for row in got)
            if kind == "perf_event_array":
                assert all(row["cpu"] == row["on_cpu"] for row in got)
        assert rows(drainer) == []
        assert not any(drainer.losses().values())


@pytest.mark.parametrize("kind", RINGS)
def test_events_of_many_sizes_come_whole_and_the_sizes_are_told(kind: str, tmp_path: Path) -> None:
    with ample(tmp_path, kind, rounds=5000, odd=3) as made:  # type: ignore[attr-defined]
        drainer = made.open()
        made.produce()
        assert [row["number"] for row in rows(drainer)] == list(range(5000))
        sizes = drainer.sizes
        assert sum(sizes.values()) == 5000
        assert max(sizes.values()) >= 3333
        if kind == "ringbuf":
            assert sizes["32"] == 5000 - sum(1 for i in range(0, 5000, 3) if i & 63)
            assert "other" in sizes, "more than sixteen sizes"


def test_discarded_events_are_passed_over(tmp_path: Path) -> None:
    with ample(tmp_path, "ringbuf", rounds=4001, gone=7) as made:  # type: ignore[attr-defined]
        drainer = made.open()
        made.produce()
        assert made.count("thrown_away") == 572
        assert [row["number"] for row in rows(drainer)] == list(range(4001 - 572))


@pytest.mark.parametrize(
    ("kind", "size"), [("ringbuf", 4096), ("perf_event_array", 0), ("queue", 100), ("stack", 100)]
)
def test_rows_and_losses_are_all_the_events_there_were(kind: str, size: int, tmp_path: Path) -> None:
    with producing(tmp_path, kind, size, perf_buffer=4096, rounds=5000) as made:
        drainer = made.open()
        got = []
        for _ in range(20):
            made.produce()
            got += rows(drainer)
        lost = drainer.losses().get("lost", 0) + made.count("events_failed_inserts")
        assert made.count("made") == 100_000
        assert len(got) + lost == 100_000
        assert len(got) >= 20 * 50
        assert lost > 50_000
        assert drainer.found_full >= 20


def test_without_a_count_of_the_kernel_the_losses_that_perf_rings_tell_outlive_the_worker(
    tmp_path: Path,
) -> None:
    with producing(tmp_path, "perf_event_array", 0, perf_buffer=4096, rounds=10) as made:
        made.described.perf_counts = False  # as before 6.0
        drainer, got = made.open(), []
        for _ in range(3):
            for _ in range(30):
                made.produce()
            got += rows(drainer)
            made.produce()  # a ring tells what it lost once there is room again
            got += rows(drainer)
        lost = drainer.losses()["lost"]
        assert len(got) + lost == made.count("made") == 930
        assert lost > 300
        assert made.open().losses() == {"lost": lost}


@pytest.mark.parametrize("kind", RINGS)
def test_events_that_end_early_are_rows_and_are_counted_over_all_workers(kind: str, tmp_path: Path) -> None:
    with ample(tmp_path, kind, rounds=100, brief=10) as made:  # type: ignore[attr-defined]
        for worker in (1, 2):
            drainer = made.open()
            made.produce()
            got = rows(drainer)
            assert [row["twice"] for row in got] == [row["number"] * 2 for row in got]
            assert [row["word"] for row in got].count(b"") == 10
            assert len(got) == 100
            assert drainer.losses()["short_event"] == 10 * worker


def test_loss_that_nobody_counts_makes_a_read_incomplete(tmp_path: Path) -> None:
    with producing(tmp_path, "ringbuf", 4096, rounds=50) as made:
        drainer = made.open(counted=False)
        assert not drainer.losses_known
        made.produce()
        assert drainer.read().complete
        for _ in range(5):
            made.produce()
        assert not drainer.read().complete
        made.produce()
        assert drainer.read().complete


def test_what_waits_too_long_is_counted_within_a_bound_of_memory(kind: str, tmp_path: Path) -> None:
    with ample(tmp_path, kind, rounds=3000) as made:  # type: ignore[attr-defined]
        drainer = made.open(most_bytes=48 * 10_000)
        for _ in range(6):
            made.produce()
            drainer.drain()
        assert drainer.memory_bytes <= 48 * 10_000
        got = rows(drainer)
        assert len(got) == 10_000
        assert drainer.losses()["no_room"] == 8000
        made.produce()
        assert [row["event_number"] for row in rows(drainer)] == list(range(18_001, 21_001))


def test_the_next_worker_goes_on_and_tells_what_was_taken_and_never_told(kind: str, tmp_path: Path) -> None:
    with ample(tmp_path, kind, rounds=1000) as made:  # type: ignore[attr-defined]
        first = made.open()
        made.produce()
        assert len(rows(first)) == 1000
        made.produce()
        first.drain()  # taken, and then the worker dies
        made.produce()
        second = made.open()
        got = rows(second)
        assert [row["event_number"] for row in got] == list(range(2001, 3001))
        assert second.losses()["worker_restart"] == 1000
        assert rows(made.open()) == []
        assert made.drainer is not None
        assert made.drainer.losses()["worker_restart"] == 1000


def test_without_the_program_values_are_popped_one_by_one(tmp_path: Path) -> None:
    with producing(tmp_path, "queue", 1000, rounds=700) as made:
        made.described.walk_fd = None
        made.described.walk_refused = "for the test"
        drainer = made.open()
        made.produce()
        assert drainer.method == "pop"
        assert drainer.why_not == {"drain": "for the test"}
        assert [row["number"] for row in rows(drainer)] == list(range(700))
        assert rows(drainer) == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_process_without_any_right_drains(kind: str, tmp_path: Path) -> None:
    with producing(tmp_path, kind, 1 << 16 if kind == "ringbuf" else 1000, rounds=300) as made:
        made.produce()
        script = tmp_path / "drain.py"
        script.write_text(
            "import os, sys, msgspec\n"
            "from bpfleet.protocol import LoadedMap\n"
            "from bpfleet.draining.opening import open_drainer\n"
            "described = msgspec.json.decode(sys.argv[1].encode(), type=LoadedMap)\n"
            "fds = [int(one) for one in sys.argv[2].split()]\n"
            "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
            "print(open_drainer(described, fds, most_bytes=1 << 20, counted=True).read().rows)\n"
        )
        import msgspec

        done = subprocess.run(
            [
                sys.executable,
                str(script),
                msgspec.json.encode(made.described).decode(),
                " ".join(map(str, made.fds)),
            ],
            pass_fds=made.fds,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        )
        assert done.stdout == "300\n", done.stderr


def test_a_book_counts_across_workers() -> None:
    from bpfleet import kernel
    from bpfleet.draining.book import BOOK_BYTES
    from bpfleet.loader.drained_maps import _BOOK_BYTES

    assert BOOK_BYTES == _BOOK_BYTES
    fd = kernel.create_map(2, 4, BOOK_BYTES, 1, 1 << 10)
    try:
        first = Book(fd)
        first.consumed, first.told, first.no_room = 100, 60, 10
        second = Book(fd)
        second.settle()
        assert (second.consumed, second.told, second.no_room, second.worker_restart) == (100, 60, 10, 30)
        second.settle()
        assert second.worker_restart == 30
        third = Book(fd)
        third.settle(105)
        assert third.worker_restart == 35
    finally:
        os.close(fd)

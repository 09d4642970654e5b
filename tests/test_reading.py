"""Reading maps: every method gives the same rows, whatever the map, and the truth while the map changes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bpfleet import kernel
from bpfleet.errors import ReadError, UnsupportedError
from bpfleet.loader.snapshot_program import load_walker
from bpfleet.reading.ladder import MapReader, WalkFds
from bpfleet.schema import Fold, counter, gauge, histogram, label, struct, timestamp
from kernel_maps import MMAPABLE, NO_PREALLOC, TestMap, new_map, rows, u32, u64

HASHES = ["hash", "lru_hash", "percpu_hash", "lru_percpu_hash"]
METHODS = ["walk", "batch", "key"]
CPUS = kernel.possible_cpus()


def fill(one: TestMap, count: int, value_of: Any) -> None:
    for number in range(count):
        key = u32(number).ljust(one.key.size, b"\0")
        value = value_of(number)
        if one.per_cpu:
            one.put(key, [value] + [bytes(len(value))] * (CPUS - 1))
        else:
            one.put(key, value)


@pytest.mark.parametrize("kind", HASHES)
@pytest.mark.parametrize(
    ("key_bytes", "value_bytes"), [(4, 8), (5, 3), (7, 1), (64, 8), (13, 129), (4, 4096), (31, 257), (256, 2)]
)
def test_every_method_gives_the_same_rows_for_odd_sizes(kind: str, key_bytes: int, value_bytes: int) -> None:
    def value_of(number: int) -> bytes:
        return bytes((number * 31 + i) % 251 + 1 for i in range(value_bytes))

    key = [label("key", f"bytes[{key_bytes}]")]
    with new_map(kind, key, [label("value", f"bytes[{value_bytes}]")], 512) as one:
        fill(one, 100, value_of)
        expected = sorted((u32(number).ljust(key_bytes, b"\0"), value_of(number)) for number in range(100))
        for method in METHODS:
            assert rows(one.reader(method)) == expected, method


@pytest.mark.parametrize("kind", HASHES)
@pytest.mark.parametrize("method", METHODS)
def test_an_empty_map_gives_no_rows(kind: str, method: str) -> None:
    with new_map(kind, [label("key", "u32")], [counter("count")], 64) as one:
        assert rows(one.reader(method)) == []


@pytest.mark.parametrize("kind", ["hash", "percpu_hash"])
@pytest.mark.parametrize("method", METHODS)
def test_a_full_map_gives_every_entry(kind: str, method: str) -> None:
    with new_map(kind, [label("key", "u32")], [counter("count")], 3000) as one:
        fill(one, 3000, lambda number: u64(number))
        assert rows(one.reader(method)) == [(number, number) for number in range(3000)]


@pytest.mark.parametrize("kind", ["array", "percpu_array"])
@pytest.mark.parametrize("method", METHODS)
def test_an_array_gives_every_element_with_its_index(kind: str, method: str) -> None:
    with new_map(kind, [label("index", "u32")], [counter("a", "u32"), counter("b", "u16")], 300) as one:
        fill(one, 300, lambda number: u32(number * 3) + u32(number)[:2] + bytes(2))
        assert rows(one.reader(method)) == [(number, number * 3, number) for number in range(300)]


@pytest.mark.parametrize("method", ["mmap", *METHODS])
def test_an_mmapable_array_is_read_alike_from_its_memory(method: str) -> None:
    with new_map("array", [label("index", "u32")], [counter("count", "u32")], 50, flags=MMAPABLE) as one:
        fill(one, 50, lambda number: u32(number + 7))
        assert rows(one.reader(method)) == [(number, number + 7) for number in range(50)]


@pytest.mark.parametrize("method", METHODS)
def test_structs_text_and_histograms_become_columns(method: str) -> None:
    key = [label("pid", "u32"), label("comm", "char[16]")]
    value = [
        struct("io", counter("reads", "u32"), counter("bytes", "u64")),
        histogram("slots", 4),
        gauge("delta", "s16"),
    ]
    with new_map("hash", key, value, 8) as one:
        assert one.value.size == 56
        one.put(u32(9) + b"bash".ljust(16, b"\0"), u64(3, 1 << 40, 1, 0, 2, 0) + b"\xfe\xff" + bytes(6))
        assert rows(one.reader(method)) == [(9, b"bash", 3, 1 << 40, (1, 0, 2, 0), -2)]


def per_cpu_values(*numbers: int) -> list[bytes]:
    """One value per CPU; the first CPUs get `numbers`, the rest none."""
    return [u64(number) for number in numbers] + [bytes(8)] * (CPUS - len(numbers))


@pytest.mark.skipif(CPUS < 2, reason="folding needs two CPUs")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("fold", "expected"), [(None, 12), (Fold.SUM, 12), (Fold.MIN, 5), (Fold.MAX, 7), (Fold.LAST, 7)]
)
def test_per_cpu_values_are_folded_as_declared(method: str, fold: Fold | None, expected: int) -> None:
    field = counter("n") if fold is None else gauge("n", fold=fold)
    with new_map("percpu_hash", [label("key", "u32")], [field], 8) as one:
        one.put(u32(1), per_cpu_values(5, 7))
        assert rows(one.reader(method)) == [(1, expected)]


@pytest.mark.skipif(CPUS < 2, reason="folding needs two CPUs")
@pytest.mark.parametrize("slots", [4, 16, 32])
@pytest.mark.parametrize("few_cpus", [0, 8])
def test_small_and_large_values_of_few_and_many_cpus_are_folded_alike(slots: int, few_cpus: int) -> None:
    """The snapshot program has a way of its own for each of the four."""
    value = [histogram("slots", slots), counter("count", "u32"), gauge("low", "s16", fold=Fold.MIN)]
    with new_map("percpu_hash", [label("key", "u32")], value, 64) as one:
        for key in range(50):
            values = [
                u64(*((key + cpu) * slot for slot in range(slots))) + u32(key) + bytes([cpu + 1, 0, 0, 0])
                for cpu in range(CPUS)
            ]
            one.put(u32(key), values)
        expected = [
            (
                key,
                tuple(sum((key + cpu) * slot for cpu in range(CPUS)) for slot in range(slots)),
                key * CPUS,
                1,
            )
            for key in range(50)
        ]
        walker = load_walker(one.fd, kernel.map_info(one.fd), one.value, 64, few_cpus=few_cpus)
        walk = WalkFds(walker.program, walker.rows, walker.counters, 64)
        assert rows(MapReader(one.fd, one.key, one.value, walk=walk, allowed=["walk"])) == expected
        assert rows(one.reader("batch")) == expected


@pytest.mark.skipif(CPUS < 2, reason="folding needs two CPUs")
@pytest.mark.parametrize("method", METHODS)
def test_a_minimum_ignores_cpus_that_never_touched_the_key(method: str) -> None:
    with new_map("percpu_array", [label("i", "u32")], [gauge("n", fold=Fold.MIN)], 2) as one:
        one.put(u32(0), per_cpu_values(0, 9))
        assert rows(one.reader(method)) == [(0, 9), (1, 0)]


@pytest.mark.skipif(CPUS < 2, reason="folding needs two CPUs")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("first", "second"), [(10, 20), (20, 10)])
def test_the_last_value_is_that_of_the_newest_timestamp(method: str, first: int, second: int) -> None:
    value = [
        label("name", "char[8]"),
        timestamp("at"),
        counter("count", "u32"),
        gauge("low", "s32", fold=Fold.MIN),
    ]
    with new_map("percpu_hash", [label("key", "u32")], value, 8) as one:
        values = [
            b"first".ljust(8, b"\0") + u64(first) + u32(3) + b"\xff\xff\xff\xff",
            b"second".ljust(8, b"\0") + u64(second) + u32(4) + u32(5),
        ]
        one.put(u32(1), values + [bytes(24)] * (CPUS - 2))
        newest = b"first" if first > second else b"second"
        assert rows(one.reader(method)) == [(1, newest, 20, 7, -1)]


@pytest.mark.parametrize("method", METHODS)
def test_a_sum_wraps_at_the_fields_own_width(method: str) -> None:
    with new_map("percpu_hash", [label("key", "u32")], [counter("a", "u32"), counter("b", "u32")], 4) as one:
        one.put(u32(1), [u32(0xFFFFFFFF) + u32(1), u32(2) + u32(1), *[bytes(8)] * (CPUS - 2)])
        assert rows(one.reader(method)) == [(1, 1, 2)]


def test_a_walk_with_too_little_room_reads_in_batches_and_asks_for_more() -> None:
    with new_map("hash", [label("key", "u32")], [counter("count")], 5000) as one:
        fill(one, 1000, lambda number: u64(number))
        info = kernel.map_info(one.fd)
        small = load_walker(one.fd, info, one.value, 100)
        reader = MapReader(
            one.fd, one.key, one.value, walk=WalkFds(small.program, small.rows, small.counters, 100)
        )
        read = reader.read()
        assert (read.method, read.rows, read.complete) == ("batch", 1000, True)
        assert reader.wanted_rows == 2000
        large = load_walker(one.fd, info, one.value, reader.wanted_rows)
        reader.use_walker(WalkFds(large.program, large.rows, large.counters, large.capacity))
        read = reader.read()
        assert (read.method, read.rows, read.entries, read.complete) == ("walk", 1000, 1000, True)
        assert sorted(read.columns[1].tolist()) == list(range(1000))


def test_entries_beyond_the_memory_limit_are_counted_and_the_read_is_not_complete() -> None:
    with new_map("hash", [label("key", "u32")], [counter("count")], 40000) as one:
        fill(one, 40000, lambda number: u64(number))
        read = one.reader("batch", most_bytes=12 * 20000).read()
        assert read.entries == 40000
        assert not read.complete
        keys = read.columns[0].tolist()
        assert 0 < len(keys) == len(set(keys)) <= 20000


def test_a_map_whose_walk_takes_too_long_is_read_in_batches_until_it_shrinks() -> None:
    with new_map("hash", [label("key", "u32")], [counter("count")], 2000) as one:
        fill(one, 2000, lambda number: u64(number))
        walker = load_walker(one.fd, kernel.map_info(one.fd), one.value, 2000)
        reader = MapReader(
            one.fd,
            one.key,
            one.value,
            walk=WalkFds(walker.program, walker.rows, walker.counters, 2000),
            walk_limit=1e-9,
        )
        assert reader.read().method == "walk"
        assert reader.read().method == "batch"
        for number in range(1900):
            one.delete(u32(number))
        assert reader.read().method == "batch"
        assert reader.read().method == "walk"


def test_no_allowed_method_is_an_error_that_says_why() -> None:
    with (
        new_map("hash", [label("key", "u32")], [counter("count")], 8) as one,
        pytest.raises(ReadError, match=r"mmap: the map is not an mmapable array; walk: not allowed"),
    ):
        MapReader(one.fd, one.key, one.value, allowed=["mmap"])


@pytest.fixture(scope="session")
def churn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("churn") / "churn"
    source = Path(__file__).with_name("churn.c")
    subprocess.run(["gcc", "-O2", "-Wall", "-o", program, source, "-lbpf", "-lpthread"], check=True)
    return program


@pytest.mark.parametrize("flags", [0, NO_PREALLOC], ids=["preallocated", "allocated on demand"])
@pytest.mark.parametrize("kind", ["hash", "percpu_hash"])
@pytest.mark.parametrize(("method", "reads"), [("walk", 600), ("batch", 300), ("key", 15)])
def test_entries_that_stay_are_read_exactly_once_while_others_come_and_go(
    churn: Path, kind: str, method: str, reads: int, flags: int
) -> None:
    stable = 1500
    with new_map(kind, [label("key", "u32")], [counter("count")], 20000, flags=flags) as one:
        fill(one, stable, lambda number: u64(number + 1))
        reader = one.reader(method)
        os.set_inheritable(one.fd, True)
        command = [str(churn), str(one.fd), str(stable), "4000", "60"]
        with subprocess.Popen(command, close_fds=False, stdout=subprocess.PIPE) as process:
            try:
                others = set()
                for _ in range(reads):
                    read = reader.read()
                    assert read.complete
                    keys, counts = (np.array(column) for column in read.columns)
                    mine = keys < stable
                    others.add(int((~mine).sum()))
                    assert sorted(keys[mine].tolist()) == list(range(stable))
                    assert (counts[mine] == keys[mine] + 1).all()
                assert len(others) > 3, "nothing changed during the reads"
            finally:
                process.kill()


def test_a_per_cpu_map_with_more_folds_than_the_program_has_is_read_in_batches() -> None:
    kinds = ("u64", "u32")
    value = [gauge(f"f{n}", kinds[n % 2], fold=(Fold.MAX, Fold.SUM)[n % 2]) for n in range(140)]
    with new_map("percpu_hash", [label("key", "u32")], value, 4) as one:
        with pytest.raises(UnsupportedError, match="140 folds"):
            load_walker(one.fd, kernel.map_info(one.fd), one.value, 4)
        one.put(u32(1), [bytes([1]) * one.value.size] + [bytes(one.value.size)] * (CPUS - 1))
        (row,) = rows(one.reader("batch"))
        assert len(row) == 141

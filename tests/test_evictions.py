"""Entries that LRU maps throw out. The source is arithmetic: so many keys are put in, and those that are
there are counted; what is missing the agent must have told."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from agent_process import Agent
from bpfleet.bpf_object import read
from bpfleet.layout import sized
from bpfleet.loader.backend import CompiledMap
from bpfleet.loader.compile import object_for
from bpfleet.loader.counters import new_keys
from bpfleet.loader.schema_check import derived_maps
from bpfleet.plugins import Plugins
from bpfleet.reading.columns import Read
from bpfleet.worker.counters import Counter, Evictions

Start = Callable[..., Agent]

NO_PID = 1 << 23
"""Above all process ids: getpgid(2) of it or more finds nobody, and the program takes the number as a key."""
PROGRAM = """
#include <bpfleet/bpfleet.h>
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 200);
	__type(key, __u64);
	__type(value, __u64);
} keys SEC(".maps");
BPFLEET_FAILED_INSERTS(keys);
BPFLEET_NEW_KEYS(keys);
static const __u64 zero;
struct getpgid {
	__u64 common;
	long nr;
	unsigned long pid;
};
SEC("tracepoint/syscalls/sys_enter_getpgid")
int on_getpgid(struct getpgid *ctx)
{
	__u64 key = ctx->pid, *count;

	if (key < 1 << 23)
		return 0;
	count = bpfleet_get_or_make_lru(keys, &key, &zero);
	if (count)
		__sync_fetch_and_add(count, 1);
	return 0;
}
char LICENSE[] SEC("license") = "Dual BSD/GPL";
"""


def started(start_agent: Start, folder: Path, source: str = PROGRAM, more: str = "") -> Agent:
    path = folder / "lru.bpf.c"
    path.write_text(source)
    agent = start_agent(f'[agent]\ninterval = "50ms"\n[collectors."{path}"]\n{more}')
    agent.next_snapshot("lru", "keys")
    return agent


def put(first: int, count: int) -> None:
    for key in range(first, first + count):
        with suppress(ProcessLookupError):
            os.getpgid(NO_PID + key)


@pytest.mark.parametrize("kind", ["LRU_HASH", "LRU_PERCPU_HASH"])
@pytest.mark.parametrize("method", ["walk", "batch", "key"])
def test_every_entry_that_was_thrown_out_is_told(
    start_agent: Start, tmp_path: Path, kind: str, method: str
) -> None:
    agent = started(start_agent, tmp_path, PROGRAM.replace("LRU_HASH", kind), f'read = ["{method}"]')
    assert agent.next_snapshot("lru", "keys")["losses"] == {"failed_insert": 0, "evicted": 0}
    put(0, 1000)
    first = agent.next_snapshot("lru", "keys")
    assert first["method"] == method
    assert 0 < first["entries"] <= first["max_entries"]
    assert first["losses"] == {"failed_insert": 0, "evicted": 1000 - first["entries"]}
    # All are new again: those that were there have been thrown out long before.
    put(1000, 2000)
    second = agent.next_snapshot("lru", "keys")
    assert second["losses"] == {"failed_insert": 0, "evicted": 3000 - second["entries"]}


def test_keys_that_come_again_and_again_throw_out_nothing(start_agent: Start, tmp_path: Path) -> None:
    agent = started(start_agent, tmp_path)
    for _ in range(20):
        put(0, 50)
    snapshot = agent.next_snapshot("lru", "keys")
    assert [row["value"] for row in snapshot["rows"]] == [20] * 50
    assert snapshot["losses"] == {"failed_insert": 0, "evicted": 0}


def test_a_key_that_comes_back_is_a_new_one(start_agent: Start, tmp_path: Path) -> None:
    agent = started(start_agent, tmp_path)
    for _ in range(10):
        put(0, 500)
    snapshot = agent.next_snapshot("lru", "keys")
    # In turn, each is thrown out before it comes again.
    assert snapshot["losses"]["evicted"] == 5000 - snapshot["entries"]


def test_while_keys_come_it_is_never_too_much_and_never_goes_down(start_agent: Start, tmp_path: Path) -> None:
    agent = started(start_agent, tmp_path)
    end = time.monotonic() + 3
    done = [0, 0]

    def fill(number: int) -> None:
        while time.monotonic() < end:
            put((number << 22) + done[number], 100)
            done[number] += 100

    threads = [threading.Thread(target=fill, args=(number,)) for number in range(2)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    last = agent.next_snapshot("lru", "keys")
    told = [one["losses"]["evicted"] for one in agent.snapshots("lru", "keys")]
    assert told == sorted(told)
    assert len(set(told)) > 10
    # A key that was refused was none, unless it was thrown out while it was being made.
    gone = sum(done) - last["entries"]
    assert gone - last["losses"]["failed_insert"] <= last["losses"]["evicted"] <= gone


def test_a_worker_that_follows_one_that_died_tells_the_same(start_agent: Start, tmp_path: Path) -> None:
    agent = started(start_agent, tmp_path)
    put(0, 1000)
    before = agent.next_snapshot("lru", "keys")
    worker = agent.child("bpfleet.worker")
    os.kill(worker, signal.SIGKILL)
    agent.child("bpfleet.worker", other_than=worker)
    after = agent.next_snapshot("lru", "keys")
    assert after["generation"] == before["generation"]
    assert after["losses"] == before["losses"]
    assert after["losses"]["evicted"] == 1000 - after["entries"] > 0


def test_rows_without_room_are_not_taken_for_entries_that_are_gone(
    start_agent: Start, tmp_path: Path
) -> None:
    source = PROGRAM.replace("max_entries, 200", "max_entries, 8000")
    agent = started(start_agent, tmp_path, source, 'row_buffer = "16KiB"')
    put(0, 4000)
    snapshot = agent.next_snapshot("lru", "keys")
    assert (snapshot["entries"], snapshot["complete"]) == (4000, False)
    assert len(snapshot["rows"]) + snapshot["losses"]["truncated"] == 4000
    assert snapshot["losses"]["evicted"] == 0


def test_dnslat_tells_the_names_that_it_forgot(start_agent: Start) -> None:
    agent = start_agent('[agent]\ninterval = "100ms"\n[collectors.dnslat]\nhosts = 100')
    agent.next_snapshot("dnslat", "hosts")
    for at in range(1000):
        socket.getaddrinfo(f"10.9.{at // 250}.{at % 250}", 80, flags=socket.AI_NUMERICHOST)
    snapshot = agent.next_snapshot("dnslat", "hosts")
    assert 0 < snapshot["entries"] <= 100
    # Other programs of this host may look up names too.
    assert snapshot["losses"]["evicted"] >= 1000 - snapshot["entries"]
    assert snapshot["losses"]["failed_insert"] == 0
    assert "evicted" not in agent.next_snapshot("dnslat", "latency")["losses"]


def test_every_lru_map_that_a_built_in_collector_reports_has_the_count() -> None:
    found, counted = set(), set()
    plugins = Plugins()
    for listed in plugins.all:
        if listed.kind != "collector" or not listed.distribution.startswith("bpfleet "):
            continue
        spec = plugins.collector(listed.name)
        if spec.program.kind != "core":  # dnslat, above
            continue
        made = read(object_for(spec.program.source))
        variables = [leaf.name for leaf in made.globals[".bss"].leaves] if ".bss" in made.globals else []
        for one in spec.maps:
            if one.name in made.maps and made.maps[one.name].type_name.startswith("lru_"):
                found.add((spec.name, one.name))
                if f"{one.name}_new_keys" in variables:
                    counted.add((spec.name, one.name))
    assert found == counted
    assert len(found) >= 12


# ---- what the worker makes of a count


class Count(Counter):
    """Tells these numbers, one after the other."""

    def __init__(self, *numbers: int) -> None:
        self._numbers = list(numbers)

    def value(self) -> int:
        return self._numbers.pop(0)


def told(count: Counter, *reads: Read) -> list[int | None]:
    one = Evictions(count)
    found = []
    left = list(reads)
    while left:
        one.read(lambda: left.pop(0))
        found.append(one.count)
    return found


def met(entries: int, rows: int | None = None, *, complete: bool = True) -> Read:
    return Read("walk", entries if rows is None else rows, entries, [], complete)


def test_keys_that_come_during_the_read_are_taken_off() -> None:
    # 30 came: they may have thrown out others that the read then missed.
    assert told(Count(1000, 1030, 1030, 1030), met(190), met(200)) == [780, 830]


def test_it_is_no_negative_and_does_not_go_down() -> None:
    # Of 10 keys that came 5 were met already; then it was known to be 100, and many came.
    assert told(Count(0, 10, 300, 300, 300, 400), met(5), met(200), met(200)) == [0, 100, 100]


def test_a_read_that_may_have_missed_entries_says_nothing() -> None:
    assert told(Count(100, 100, 100, 100), met(50, complete=False), met(100)) == [None, 0]


def test_entries_that_had_no_room_are_there() -> None:
    assert told(Count(100, 100), met(90, rows=40, complete=False)) == [10]


# ---- which counts are taken for one


def program(maps: dict[str, str]) -> dict[str, CompiledMap]:
    return {
        name: CompiledMap(name, number, sized(8), sized(8), kind=kind)
        for number, (name, kind) in enumerate(maps.items())
    }


def test_a_map_of_that_name_beside_an_lru_map_is_its_count() -> None:
    compiled = program({"keys": "lru_hash", "keys_new_keys": "array"})
    assert new_keys("keys", compiled, lambda fd: fd) == (1, 0)
    assert set(derived_maps("c", compiled, {})) == {"keys"}


@pytest.mark.parametrize(
    "maps",
    [
        {"keys": "hash", "keys_new_keys": "array"},
        {"keys": "lru_hash", "keys_new_keys": "hash"},
        {"new_keys": "lru_hash", "my_new_keys": "array"},
    ],
)
def test_what_is_called_so_by_chance_stays_the_programs_own(maps: dict[str, str]) -> None:
    compiled = program(maps)
    assert all(new_keys(name, compiled, lambda fd: fd) is None for name in maps)
    assert set(derived_maps("c", compiled, {})) == set(maps)


def test_variables_of_that_name_without_an_lru_map_are_reported(start_agent: Start, tmp_path: Path) -> None:
    agent = started(start_agent, tmp_path, PROGRAM.replace("LRU_HASH", "HASH"))
    put(0, 100)
    assert agent.next_snapshot("lru", "keys")["losses"] == {"failed_insert": 0}
    (row,) = agent.next_snapshot("lru", ".bss")["rows"]
    assert row == {"keys_new_keys": 100}


def test_a_program_without_the_count_tells_no_evictions(start_agent: Start, tmp_path: Path) -> None:
    source = PROGRAM.replace("BPFLEET_NEW_KEYS(keys);\n", "").replace("make_lru", "make")
    agent = started(start_agent, tmp_path, source)
    put(0, 1000)
    assert agent.next_snapshot("lru", "keys")["losses"] == {"failed_insert": 0}

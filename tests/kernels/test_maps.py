"""Every kind of map that is read on this kernel, by every method, with known content."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kept_maps import DRAINED, KINDS, expected
from running import EVENTS, READ_BY, Running

Record = Callable[[str, str, str], None]


@pytest.fixture(scope="module")
def events(running: Running) -> int:
    """How many events have filled the maps; counted by a global of the same program."""
    EVENTS["getpgid"](running)
    (row,) = running.agent.next_snapshot("maps_key", ".bss")["rows"]
    assert row["mapped"] > 0
    return int(row["mapped"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_map_is_read_by_every_method_that_it_can_be_read_by(
    running: Running, events: int, record: Record, kind: str
) -> None:
    used = []
    for collector in READ_BY:
        snapshot = running.agent.next_snapshot(collector, f"in_{kind}")
        assert snapshot["complete"]
        assert {(row["key"], row["value"]) for row in snapshot["rows"]} == expected(events)
        assert len(snapshot["rows"]) == snapshot["entries"]
        used.append(snapshot["method"])
    assert used == ["walk", "batch", "key"]
    record("maps", kind, ", ".join(used))


def test_a_map_in_memory_is_read_there(running: Running, events: int, record: Record) -> None:
    snapshot = running.agent.next_snapshot("maps_walk", ".bss")
    assert (snapshot["method"], snapshot["rows"]) == ("mmap", [{"mapped": events}])
    record("maps", "array, mmapable (globals)", "mmap")


def test_prefixes_are_read_by_key(running: Running, events: int, record: Record) -> None:
    snapshot = running.agent.next_snapshot("maps_walk", "in_lpm_trie")
    assert snapshot["method"] == "key"
    assert len(snapshot["rows"]) == 8
    assert {row["value"] for row in snapshot["rows"]} == set(range(1, 9))
    record("maps", "lpm_trie", "key")


@pytest.mark.parametrize("kind", DRAINED)
def test_each_event_is_drained_once(running: Running, record: Record, kind: str) -> None:
    EVENTS["getpgid"](running)
    (row,) = running.agent.next_snapshot("drained", ".bss")["rows"]
    running.agent.next_snapshot("drained", f"in_{kind}")
    snapshots = running.agent.snapshots("drained", f"in_{kind}")
    numbers = [one["number"] for snapshot in snapshots for one in snapshot["rows"]]
    assert sorted(numbers) == list(range(row["made"]))
    assert not any(any(snapshot["losses"].values()) for snapshot in snapshots)
    (method,) = {snapshot["method"] for snapshot in snapshots}
    record("maps", kind, method)


@pytest.mark.parametrize("kind", ["cgroup_storage", "percpu_cgroup_storage"])
def test_storage_of_cgroups_is_read_by_key(running: Running, record: Record, kind: str) -> None:
    before = running.agent.next_snapshot("storage", f"in_{kind}")
    sent = EVENTS["packets"](running)
    after = running.agent.next_snapshot("storage", f"in_{kind}")
    assert after["method"] == "key"
    (first,), (last,) = before["rows"], after["rows"]
    assert last["value"] - first["value"] == sent
    record("maps", kind, "key")

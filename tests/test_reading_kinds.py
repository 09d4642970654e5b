"""Map kinds with a way of their own: values with a lock, tries of prefixes, storage of cgroups."""

from __future__ import annotations

import ctypes
import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent_process import Agent
from bpfleet import kernel
from bpfleet.bpf_object import read as read_object
from bpfleet.layout import declared
from bpfleet.loader.compile import object_for
from bpfleet.loader.libbpf import Object
from bpfleet.reading.ladder import MapReader
from bpfleet.schema import counter, label

Start = Callable[..., Agent]

LOCKED = """
#include <bpfleet/bpfleet.h>

struct locked {
    struct bpf_spin_lock lock;
    __u32 round;
    __u64 copies[64];
};

struct {
    __uint(type, BPF_MAP_TYPE_%s);
    __uint(max_entries, 4);
    __type(key, __u32);
    __type(value, struct locked);
} values SEC(".maps");

char LICENSE[] SEC("license") = "Dual BSD/GPL";
"""

WRITER = """
import ctypes, struct, sys
from bpfleet import kernel
fd, number, rounds = map(int, sys.argv[1:])
key = ctypes.create_string_buffer(struct.pack("<I", 1), 4)
for i in range(rounds):
    mark = i * 2 + number
    value = ctypes.create_string_buffer(struct.pack("<II64Q", 0, mark & 0xFFFFFFFF, *[mark] * 64))
    kernel.update(fd, ctypes.addressof(key), ctypes.addressof(value), kernel.F_LOCK)
"""


@pytest.fixture(params=["HASH", "ARRAY"])
def locked(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[int, Any, Any]]:
    """A map whose values have a lock: its fd and layouts."""
    source = tmp_path / "locked.bpf.c"
    source.write_text(LOCKED % request.param)
    made = object_for(source)
    opened = Object(str(made))
    opened.load()
    try:
        key, value = read_object(made).layouts_of("values")
        yield opened.map("values").fd, key, value
    finally:
        opened.close()


@pytest.mark.parametrize("method", ["batch", "key"])
def test_a_value_with_a_lock_is_never_read_half_written(locked: tuple[int, Any, Any], method: str) -> None:
    fd, key, value = locked
    reader = MapReader(fd, key, value, allowed=[method])
    assert "lock" in reader.why_not["walk"]
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(fd), str(number), "40000"], pass_fds=[fd])
        for number in range(2)
    ]
    seen = set()
    try:
        while any(writer.poll() is None for writer in writers):
            read = reader.read()
            columns = [column.tolist() for column in read.columns]
            for index, mark, copies in zip(*columns, strict=True):
                if index == 1:
                    assert set(copies) == {copies[0]}
                    assert mark == copies[0] & 0xFFFFFFFF
                    seen.add(mark)
    finally:
        for writer in writers:
            writer.kill()
            assert writer.wait() in (0, -9)
    assert len(seen) > 10, "the writers were not met at work"


def test_the_lock_itself_is_no_column(locked: tuple[int, Any, Any]) -> None:
    _, _, value = locked
    assert [leaf.name for leaf in value.columns()] == ["round", "copies"]


def test_a_trie_of_prefixes_gives_every_prefix() -> None:
    kind = kernel.MAP_TYPES.index("lpm_trie")
    fd = kernel.create_map(kind, 8, 8, 1000, 1)
    expected = set()
    try:
        for number in range(300):
            prefix, address = 8 + number % 25, number * 0x01010101 & 0xFFFFFFFF
            key = struct.pack("<II", prefix, address)
            value = ctypes.create_string_buffer(struct.pack("<Q", number), 8)
            held = ctypes.create_string_buffer(key, 8)
            kernel.update(fd, ctypes.addressof(held), ctypes.addressof(value))
        # What the kernel has, asked in another way: bits behind the prefix say nothing to it.
        listed = subprocess.run(
            ["bpftool", "-j", "map", "dump", "id", str(kernel.map_info(fd).id)],
            capture_output=True,
            text=True,
            check=True,
        )
        for one in json.loads(listed.stdout):
            key, value = (bytes(int(byte, 16) for byte in one[part]) for part in ("key", "value"))
            expected.add((*struct.unpack("<II", key), *struct.unpack("<Q", value)))
        layouts = declared([label("prefix", "u32"), label("address", "u32")]), declared([counter("hits")])
        reader = MapReader(fd, *layouts)
        assert reader.method == "key"
        read = reader.read()
        assert read.complete
        assert set(zip(*(column.tolist() for column in read.columns), strict=True)) == expected
        assert len(expected) > 100
    finally:
        os.close(fd)


def test_values_with_a_lock_are_read_through_the_whole_agent(start_agent: Start, tmp_path: Path) -> None:
    source = tmp_path / "locks.bpf.c"
    source.write_text(
        LOCKED % "ARRAY"
        + """
SEC("tp_btf/sched_process_exec")
int on_exec(void *ctx)
{
    __u32 index = 2;
    struct locked *value = bpf_map_lookup_elem(&values, &index);

    if (!value)
        return 0;
    bpf_spin_lock(&value->lock);
    value->round++;
    value->copies[63]++;
    bpf_spin_unlock(&value->lock);
    return 0;
}
"""
    )
    agent = start_agent(f'[agent]\ninterval = "100ms"\n[collectors."{source}"]\n')
    agent.next_snapshot("locks", "values")
    subprocess.run(["/bin/true"], check=True)
    snapshot = agent.next_snapshot("locks", "values")
    assert snapshot["method"] == "batch"
    row = next(row for row in snapshot["rows"] if row["key"] == 2)
    assert row["round"] == row["copies"][63] > 0

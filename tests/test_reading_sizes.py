"""Large values, many entries, and what is no column of a value."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from agent_process import Agent
from bpfleet import kernel
from bpfleet.schema import counter, label
from bpfleet.wire import Decoder, Origin, Schema, Snapshot, columns_of, encode_schema, encode_snapshot
from kernel_maps import new_map, put_many, rows, u32

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

Start = Callable[..., Agent]

MILLION = 1_000_000


@pytest.mark.parametrize("method", ["walk", "batch", "key"])
@pytest.mark.parametrize("kind", ["hash", "array", "percpu_hash"])
def test_values_larger_than_a_page_are_whole(kind: str, method: str) -> None:
    size = 4096 + 4096 // 8 + 1  # u64 numbers: nine pages, and one number
    numbers = {
        number: np.arange(number * 100_000, number * 100_000 + size, dtype="<u8") for number in range(6)
    }
    if kind == "percpu_hash":
        size = 600  # of each CPU the kernel takes no more than 32 KiB
        numbers = {number: one[:size] for number, one in numbers.items()}
    with new_map(kind, [label("id", "u32")], [counter("numbers", f"u64[{size}]")], 6) as one:
        for number, value in numbers.items():
            data = value.tobytes()
            others = [bytes(len(data))] * (kernel.possible_cpus() - 1)
            one.put(u32(number), [data, *others] if one.per_cpu else data)
        found = rows(one.reader(method))
    assert found == [(number, tuple(value.tolist())) for number, value in numbers.items()]


@pytest.mark.parametrize("method", ["walk", "batch"])
def test_a_million_entries_are_read_and_told_whole(method: str) -> None:
    key, value = [label("id", "u32")], [counter("hits")]
    with new_map("hash", key, value, MILLION) as one:
        put_many(one.fd, MILLION, 8)
        reader = one.reader(method)
        read = reader.read()
        assert (read.rows, read.entries, read.complete) == (MILLION, MILLION, True)
        schema = Schema("c", "1", "m", "", columns_of(one.key.columns(), one.value.columns()))
        head = encode_schema(schema)
        snapshot = Snapshot(
            schema=schema,
            origin=Origin("agent", "host", "boot", 1),
            generation=1,
            seq=1,
            t0=1,
            t1=2,
            wall_offset=0,
            rows=read.rows,
            columns=read.columns,
            method=read.method,
            complete=read.complete,
            entries=read.entries,
            max_entries=MILLION,
        )
        decoder = Decoder()
        decoder.decode(head.data)
        parts = [decoder.decode(frame.data) for frame in encode_snapshot(snapshot, head)]
    assert all(isinstance(part, Snapshot) for part in parts)
    ids = np.concatenate([part.columns[0] for part in parts if isinstance(part, Snapshot)])
    hits = np.concatenate([part.columns[1] for part in parts if isinstance(part, Snapshot)])
    assert np.array_equal(np.sort(ids), np.arange(MILLION))
    assert int(hits.sum()) == MILLION
    assert len(parts) > 10


def test_a_million_entries_that_have_no_room_are_counted() -> None:
    with new_map("hash", [label("id", "u32")], [counter("hits")], MILLION) as one:
        put_many(one.fd, MILLION, 8)
        read = one.reader("batch", most_bytes=12 * 100_000).read()
    assert read.entries == MILLION
    assert 50_000 < read.rows <= 100_000 + 16384
    assert not read.complete


WITH_KERNEL_PARTS = """
#include <bpfleet/bpfleet.h>

struct mixed {
    __u8 first;
    __u32 number;
    struct bpf_timer timer;
    __u8 last[3];
};

struct {
    __uint(type, BPF_MAP_TYPE_%s);
    __uint(max_entries, 4);
    __type(key, __u32);
    __type(value, struct mixed);
} mixed SEC(".maps");

SEC("tp_btf/sys_enter")
int BPF_PROG(on_call, void *regs, long number)
{
    struct mixed none = {}, *value;
    __u32 key = 2;

    if (number != 121) /* getpgid */
        return 0;
    if (!bpf_map_lookup_elem(&mixed, &key))
        bpf_map_update_elem(&mixed, &key, &none, BPF_NOEXIST);
    value = bpf_map_lookup_elem(&mixed, &key);
    if (!value)
        return 0;
    value->first = 200;
    __sync_fetch_and_add(&value->number, 1);
    value->last[0] = 7;
    value->last[2] = 9;
    return 0;
}

char LICENSE[] SEC("license") = "GPL";
"""


@pytest.mark.parametrize("kind", ["HASH", "ARRAY"])
def test_timers_and_padding_are_no_columns(start_agent: Start, tmp_path: Path, kind: str) -> None:
    source = tmp_path / "parts.bpf.c"
    # Without kernel pointers: Debian's clang 14 leaves out the tags that tell them.
    source.write_text(WITH_KERNEL_PARTS % kind)
    agent = start_agent(f'[agent]\ninterval = "100ms"\n[collectors."{source}"]\n')
    agent.next_snapshot("parts", "mixed")
    before = _row(agent)
    script = "import os; [os.getpgid(0) for _ in range(77)]"
    subprocess.run(["/usr/bin/python3", "-c", script], check=True)
    row = _row(agent)
    assert list(row) == ["key", "first", "number", "last"]
    assert (row["first"], row["last"]) == (200, [7, 0, 9])
    assert row["number"] - before.get("number", 0) >= 77


def _row(agent: Agent) -> dict[str, object]:
    rows = agent.next_snapshot("parts", "mixed")["rows"]
    return next((dict(row) for row in rows if row["key"] == 2), {})

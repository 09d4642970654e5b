"""Maps of maps, on the real kernel: inner maps that were there from the start, and ones that come and go."""

from __future__ import annotations

import ctypes
import os
import signal
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from agent_process import Agent, run
from bpfleet import kernel
from bpfleet.layout import declared, nested, unnested
from bpfleet.loader.compile import object_for
from bpfleet.loader.core import open_core
from bpfleet.loader.schema_check import check_schema
from bpfleet.protocol import Load
from bpfleet.schema import label
from bpfleet.supervisor.holdings import Holdings
from bpfleet.supervisor.inner_maps import open_inner
from kernel_maps import TYPES, open_map

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

Start = Callable[..., Agent]

SOURCE = """
#include <bpfleet/bpfleet.h>

struct pair { __u32 first; __u32 second; };
struct numbers { __u64 calls; __s32 last; __u32 pad; };

struct inner {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 100);
    __type(key, struct pair);
    __type(value, struct numbers);
} left SEC(".maps"), right SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
    __uint(max_entries, 4);
    __type(key, __u32);
    __array(values, struct inner);
} by_side SEC(".maps") = { .values = { [1] = &left, [3] = &right } };

struct {
    __uint(type, BPF_MAP_TYPE_HASH_OF_MAPS);
    __uint(max_entries, 8);
    __type(key, __u64);
    __array(values, struct {
        __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
        __uint(max_entries, 3);
        __type(key, __u32);
        __type(value, __u64);
    });
} by_number SEC(".maps");

SEC("tracepoint/syscalls/sys_enter_getpgid")
int on_getpgid(void *ctx)
{
    __u32 side = bpf_get_current_pid_tgid() >> 32 & 1 ? 1 : 3;
    struct pair key = {.first = side, .second = bpf_get_current_pid_tgid() >> 32};
    struct numbers none = {}, *value;
    void *inner = bpf_map_lookup_elem(&by_side, &side);

    if (!inner)
        return 0;
    bpf_map_update_elem(inner, &key, &none, BPF_NOEXIST);
    value = bpf_map_lookup_elem(inner, &key);
    if (value)
        __sync_fetch_and_add(&value->calls, 1);
    return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    made = tmp_path / "nest.bpf.c"
    made.write_text(SOURCE)
    (tmp_path / "nest.toml").write_text("[maps.left]\nread = false\n[maps.right]\nread = false\n")
    return made


@pytest.fixture
def agent(start_agent: Start, source: Path) -> Agent:
    started = start_agent(f'[agent]\ninterval = "100ms"\n[collectors."{source}"]\n')
    started.next_snapshot("nest", "by_side")
    return started


def put(fd: int, key: bytes, value: bytes) -> None:
    held = ctypes.create_string_buffer(key, len(key)), ctypes.create_string_buffer(value, len(value))
    kernel.update(fd, *(ctypes.addressof(one) for one in held))


@contextmanager
def inner_map(*numbers: int) -> Iterator[int]:
    """A map for `by_number` with these three numbers, each as the sum of all CPUs."""
    fd = kernel.create_map(TYPES["percpu_array"], 4, 8, 3)
    try:
        for index, number in enumerate(numbers):
            cpus = [number - 7 * (kernel.possible_cpus() - 1)] + [7] * (kernel.possible_cpus() - 1)
            put(fd, struct.pack("<I", index), struct.pack(f"<{len(cpus)}q", *cpus))
        yield fd
    finally:
        os.close(fd)


def rows(agent: Agent, name: str) -> list[tuple[Any, ...]]:
    snapshot = agent.next_snapshot("nest", name)
    assert snapshot["complete"]
    assert snapshot["entries"] == len(snapshot["rows"])
    return sorted(tuple(row.values()) for row in snapshot["rows"])


def test_inner_maps_of_the_source_are_read_with_the_outer_key_in_front(agent: Agent) -> None:
    children = []
    for _ in range(4):
        child = os.fork()
        if not child:
            for _ in range(child_calls(os.getpid())):
                os.getpgid(0)
            os._exit(0)
        os.waitpid(child, 0)
        children.append(child)
    snapshot = agent.next_snapshot("nest", "by_side")
    found = {row["second"]: row for row in snapshot["rows"] if row["second"] in children}
    assert found == {
        child: {
            "outer": 1 if child & 1 else 3,
            "first": 1 if child & 1 else 3,
            "second": child,
            "calls": child_calls(child),
            "last": 0,
        }
        for child in children
    }
    assert snapshot["max_entries"] == 200


def child_calls(pid: int) -> int:
    return 100 + pid % 50


def test_inner_maps_come_are_replaced_and_go_while_it_runs(agent: Agent) -> None:
    outer = open_map("by_number", agent.process.pid)
    assert rows(agent, "by_number") == []
    with inner_map(100, 200, 300) as first, inner_map(1000, 2000, 3000) as second:
        put(outer, struct.pack("<Q", 5), struct.pack("<I", first))
        assert rows(agent, "by_number") == [(5, 0, 100), (5, 1, 200), (5, 2, 300)]
        put(outer, struct.pack("<Q", 6), struct.pack("<I", first))
        put(
            first,
            struct.pack("<I", 1),
            struct.pack(f"<{kernel.possible_cpus()}Q", 11, *[0] * (kernel.possible_cpus() - 1)),
        )
        same = [(number, *row) for number in (5, 6) for row in [(0, 100), (1, 11), (2, 300)]]
        assert rows(agent, "by_number") == same
        put(outer, struct.pack("<Q", 5), struct.pack("<I", second))
        assert rows(agent, "by_number") == [
            *[(5, index, 1000 * (index + 1)) for index in range(3)],
            *[(6, *row) for row in [(0, 100), (1, 11), (2, 300)]],
        ]
        worker = agent.child("bpfleet.worker")
        os.kill(worker, signal.SIGKILL)
        agent.child("bpfleet.worker", other_than=worker)
        assert len(rows(agent, "by_number")) == 6
        key = ctypes.create_string_buffer(struct.pack("<Q", 6), 8)
        kernel.delete(outer, ctypes.addressof(key))
        assert rows(agent, "by_number") == [(5, index, 1000 * (index + 1)) for index in range(3)]
    os.close(outer)


def test_inner_maps_that_went_are_let_go_of(agent: Agent) -> None:
    outer = open_map("by_number", agent.process.pid)
    worker = agent.child("bpfleet.worker")
    with inner_map(1, 2, 3) as first:
        put(outer, struct.pack("<Q", 1), struct.pack("<I", first))
        rows(agent, "by_number")
        open_then = len(os.listdir(f"/proc/{worker}/fd"))
    for number in range(20):
        with inner_map(number, 0, 0) as following:
            put(outer, struct.pack("<Q", 1), struct.pack("<I", following))
        assert rows(agent, "by_number")[0] == (1, 0, number)
    assert len(os.listdir(f"/proc/{worker}/fd")) == open_then
    os.close(outer)


def test_the_schema_that_inspect_writes_is_the_one_that_loads(source: Path) -> None:
    written = run("inspect", "--as-schema", str(object_for(source)))
    space: dict[str, Any] = {}
    exec(written.stdout, space)  # the source of a plugin, as its author would paste it
    (spec,) = (one for one in space["MAPS"] if one.name == "by_side")
    assert [(field.name, field.ctype) for field in spec.key] == [
        ("outer", "u32"),
        ("first", "u32"),
        ("second", "u32"),
    ]
    opened = open_core(Load(collector="c", kind="core", source=str(source)))
    assert check_schema("c", space["MAPS"], {one.name: one for one in opened.types()})


def test_once_has_the_rows_of_inner_maps_in_its_one_snapshot(source: Path) -> None:
    shown = run("once", str(source), "--after", "10ms", "--format", "table")
    assert shown.returncode == 0, shown.stderr
    assert "nest.by_side" in shown.stdout
    assert "of 200 entries" in shown.stdout


def test_the_supervisor_opens_no_map_that_the_map_of_maps_does_not_hold() -> None:
    inside = kernel.create_map(TYPES["array"], 4, 8, 1)
    outside = kernel.create_map(TYPES["array"], 4, 8, 1)
    attributes = struct.pack("=6I40x", TYPES["hash_of_maps"], 4, 4, 4, 0, inside)
    outer = kernel.bpf_call(0, ctypes.create_string_buffer(attributes, len(attributes)))
    put(outer, struct.pack("<I", 9), struct.pack("<I", inside))
    ids = [kernel.map_info(fd).id for fd in (inside, outside)]
    holdings = Holdings()
    described = [{"name": name, "fd": index, "perf_fds": []} for index, name in enumerate(("outer", "plain"))]
    request = {"collector": "c", "source": "/nonexistent"}
    holdings.take(request, {"maps": described}, [outer, outside])

    def ask(collector: str, name: str) -> list[int]:
        answer, fds = open_inner(holdings, {"collector": collector, "map": name, "ids": [*ids, 1 << 31]})
        for fd in fds:
            os.close(fd)
        assert len(answer["ids"]) == len(fds)
        return list(answer["ids"])

    assert ask("c", "outer") == [ids[0]]
    assert ask("c", "plain") == []
    assert ask("c", "no such map") == []
    assert ask("another", "outer") == []
    with pytest.raises(ValueError, match="at once"):
        open_inner(holdings, {"collector": "c", "map": "outer", "ids": list(range(5000))})
    holdings.release(["c"])
    os.close(inside)


@pytest.mark.parametrize("outer", ["u8", "u32", "u64"])
@pytest.mark.parametrize("inner", ["u8", "u16", "u64"])
def test_two_keys_are_declared_as_one_struct_of_both(outer: str, inner: str) -> None:
    both, at = nested(declared([label("a", outer)]), declared([label("b", inner)]))
    assert both.size == declared([label("a", outer), label("b", inner)]).size
    assert [leaf.offset for leaf in both.leaves] == [
        leaf.offset for leaf in declared([label("a", outer), label("b", inner)]).leaves
    ]
    sizes = [declared([label("x", kind)]).size for kind in (outer, inner)]
    front, back = unnested(both, at, *sizes)
    assert [(leaf.name, leaf.offset) for leaf in (*front.leaves, *back.leaves)] == [("a", 0), ("b", 0)]

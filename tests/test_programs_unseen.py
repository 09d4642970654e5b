"""Programs that were written without us in mind: scratch memory and locks stand beside what they tell."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from agent_process import BPFLEET, Agent
from bpfleet.errors import ReadError
from bpfleet.layout import Layout, Leaf, sized
from bpfleet.schema import Meaning
from bpfleet.wire import Limits, Origin, Schema, columns_of, encode_schema, fitting
from bpfleet.worker.collecting import RunningCollector
from bpfleet.worker.ledger import Ledger
from bpfleet.worker.tick import tick
from objects_fixture import Objects

Start = Callable[..., Agent]

RELEASE = tuple(map(int, os.uname().release.split(".")[:2]))
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

SHAPES = """
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

#define own(name) SEC(".bss." #name) __attribute__((visibility("hidden"), aligned(8)))

struct scratch { char path[3 << 20]; __u64 used; };

own(lock) struct bpf_spin_lock lock;

__u64 execs = 0;
char image[5 << 20];

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct scratch);
} heap SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
    __uint(max_entries, 2);
    __type(key, __u32);
    __array(values, struct {
        __uint(type, BPF_MAP_TYPE_REUSEPORT_SOCKARRAY);
        __uint(max_entries, 1);
        __type(key, __u32);
        __type(value, __u32);
    });
} sockets SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u32);
    __uint(map_flags, BPF_F_WRONLY);
} orders SEC(".maps");

SEC("tp_btf/sched_process_exec")
int on_exec(void *ctx)
{
    __u32 first = 0;
    struct scratch *here = bpf_map_lookup_elem(&heap, &first);

    __sync_fetch_and_add(&execs, 1);
    image[execs & 0xff] = 1;
    if (here)
        here->used++;
    return 0;
}

SEC("iter/bpf_map_elem")
int each_element(struct bpf_iter__bpf_map_elem *ctx)
{
    return 0;
}

char LICENSE[] SEC("license") = "GPL";
"""


def programs_in(directory: Path) -> Path:
    """An empty folder for programs, which the worker may enter."""
    folder = directory / "programs"
    folder.mkdir(mode=0o755)
    return folder


def agent_of(start_agent: Start, folder: Path) -> Agent:
    """An agent with the programs of a folder."""
    return start_agent(f'[agent]\ninterval = "100ms"\nprograms = "{folder}"\n')


@needs_root
def test_what_a_record_can_t_carry_is_left_out_and_told(start_agent: Start, tmp_path: Path) -> None:
    folder = programs_in(tmp_path)
    (folder / "shapes.bpf.c").write_text(SHAPES)
    agent = agent_of(start_agent, folder)
    before = agent.next_snapshot("shapes", ".bss")["rows"][0]["execs"]
    for _ in range(7):
        subprocess.run(["/bin/true"], check=True)
    (row,) = agent.next_snapshot("shapes", ".bss")["rows"]
    assert row["execs"] - before >= 7  # the whole host starts programs
    assert "image" not in row
    (row,) = agent.next_snapshot("shapes", "heap")["rows"]
    assert set(row) == {"key", "used"}
    (said,) = agent.status()["collectors"]
    assert said["state"] == "running"
    left_out = {one["name"]: one.get("left_out") for one in said["maps"]}
    # Neither the lock, of which there is nothing to tell, nor the map of maps of sockets, nor the one that
    # user space may not read.
    assert left_out == {".bss": "image (5,242,880 bytes)", "heap": "path (3,145,728 bytes)"}
    assert "map 'heap' is told without path (3,145,728 bytes)" in agent.stderr
    programs = {one["name"]: one.get("error", "") for one in said["programs"]}
    assert programs["on_exec"] == ""
    assert "nothing says which map it goes through" in programs["each_element"]


HITS = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

__u64 hits = 0;

SEC("SECTION")
int on_it(void *ctx)
{
    __sync_fetch_and_add(&hits, 1);
    return 0;
}

char LICENSE[] SEC("license") = "GPL";
"""

RINGS = """struct started { __u32 pid; char comm[16]; };
struct owner { struct { __u32 uid; } who; };

struct {
    __uint(type, BPF_MAP_TYPE_RINGBUF);
    __uint(max_entries, 65536);
} rb SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
    __uint(key_size, 4);
    __uint(value_size, 4);
} raw SEC(".maps");

const volatile __u64 unused_here"""
SUBMITS = """    struct owner owner = {};
    struct started *started = bpf_ringbuf_reserve(&rb, sizeof(*started), 0);

    if (!started)
        return 0;
    started->pid = bpf_get_current_pid_tgid() >> 32;
    bpf_get_current_comm(started->comm, sizeof(started->comm));
    bpf_ringbuf_submit(started, 0);
    owner.who.uid = bpf_get_current_uid_gid();
    bpf_perf_event_output(ctx, &raw, BPF_F_CURRENT_CPU, &owner, sizeof(owner));"""

BARE = """
#include <errno.h>
#include <linux/bpf.h>
#include <stdint.h>
#include <string.h>
#include "bpf_helpers.h"
#include "bpf_tracing.h"

uint64_t hits = 0;

SEC("tcx/ingress")
int on_packet(struct __sk_buff *skb)
{
    return -1;
}

SEC("sk_lookup")
int on_lookup(struct bpf_sk_lookup *ctx)
{
    return 1;
}

SEC("tp_btf/sched_process_exec")
int on_exec(void *ctx)
{
    char name[16];

    memset(name, 0, sizeof(name));
    if (bpf_get_current_comm(name, sizeof(name)) != -ENOENT)
        __sync_fetch_and_add(&hits, sizeof(hits) / 8);
    return 0;
}

char LICENSE[] SEC ("license") = "GPL";
"""


@needs_root
def test_headers_and_sections_are_those_of_other_loaders(start_agent: Start, tmp_path: Path) -> None:
    """glibc's headers, libbpf's without their folder, sections that an older libbpf does not know."""
    folder = programs_in(tmp_path)
    (folder / "bare.bpf.c").write_text(BARE)
    (folder / "bare.toml").write_text(
        '[[attach]]\nprogram = "on_packet"\nkind = "tcx/ingress"\ntarget = "lo"\n'
    )
    agent = agent_of(start_agent, folder)
    before = agent.next_snapshot("bare", ".bss")["rows"][0]["hits"]
    for _ in range(5):
        subprocess.run(["/bin/true"], check=True)
    assert agent.next_snapshot("bare", ".bss")["rows"][0]["hits"] - before >= 5
    (said,) = agent.status()["collectors"]
    programs = {one["name"]: one for one in said["programs"]}
    assert programs["on_packet"]["attached"] == "tcx/ingress/lo"
    assert "nothing to attach programs of this kind to" in programs["on_lookup"]["error"]


LATER = """
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include <bpf/bpf_core_read.h>

extern void bpf_of_another_kernel(void) __ksym __weak;

__u64 sum = 0, rounds = 0;
__u32 tgid = 0;

SEC("?uprobe")
int BPF_UPROBE(on_call, int first, int second)
{
    return first > second;
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(on_exec, struct task_struct *task)
{
    int number;

    if (bpf_ksym_exists(bpf_of_another_kernel))
        return 0;
    sum = rounds = 0;
    bpf_for(number, 1, 11)
        sum += number;
    bpf_repeat(7)
        rounds++;
    tgid = bpf_core_cast(bpf_get_current_task(), struct task_struct)->tgid;
    return 0;
}

char LICENSE[] SEC("license") = "GPL";
"""


@needs_root
@pytest.mark.skipif(RELEASE < (6, 4), reason="Linux has these loops since 6.4")
def test_what_later_headers_of_libbpf_have_is_there(start_agent: Start, tmp_path: Path) -> None:
    folder = programs_in(tmp_path)
    (folder / "later.bpf.c").write_text(LATER)
    agent = agent_of(start_agent, folder)
    agent.next_snapshot("later", ".bss")
    subprocess.run(["/bin/true"], check=True)
    row = agent.wait_for(
        lambda: next((one for one in agent.snapshots("later", ".bss")[-1]["rows"] if one["tgid"]), None)
    )
    assert (row["sum"], row["rounds"]) == (55, 7)


@needs_root
def test_a_program_without_maps_runs_and_it_is_told(start_agent: Start, tmp_path: Path) -> None:
    folder = programs_in(tmp_path)
    (folder / "mute.bpf.c").write_text(
        '#include <linux/bpf.h>\n#include <bpf/bpf_helpers.h>\nchar LICENSE[] SEC("license") = "GPL";\n'
        'SEC("tp_btf/sched_process_exec") int on_exec(void *ctx) { return 0; }\n'
    )
    agent = agent_of(start_agent, folder)
    agent.wait_for(lambda: "collector 'mute' has no map that could be read" in agent.stderr)
    (said,) = agent.status()["collectors"]
    assert (said["state"], said["maps"]) == ("running", [])


def numbers(count: int, *more: Leaf) -> Layout:
    leaves = tuple(Leaf(f"n{at}", 4 * at, "u32", None, Meaning.GAUGE) for at in range(count))
    return Layout(4 * count + sum(leaf.size for leaf in more), leaves + more)


KEY = sized(4)
MOST = Limits()


@pytest.mark.parametrize(
    ("value", "left_out"),
    [
        (numbers(3), []),
        (numbers(600), [f"n{at}" for at in range(510, 600)]),
        (numbers(1, Leaf("text", 4, "char", MOST.element_bytes, Meaning.LABEL)), []),
        (numbers(1, Leaf("text", 4, "char", MOST.element_bytes + 1, Meaning.LABEL)), ["text"]),
        (numbers(1, Leaf("n" * 255, 4, "u32", None, Meaning.GAUGE)), []),
        (numbers(1, Leaf("n" * 256, 4, "u32", None, Meaning.GAUGE)), ["n" * 256]),
        (numbers(1, Leaf("many", 4, "u64", MOST.element_bytes // 4, Meaning.GAUGE)), ["many"]),
        (
            numbers(0, *(Leaf(f"b{at}", at << 20, "bytes", 1 << 20, Meaning.LABEL) for at in range(5))),
            ["b3", "b4"],
        ),
    ],
)
def test_what_fits_is_what_a_schema_can_say(value: Layout, left_out: list[str]) -> None:
    kept, others = fitting(KEY, value)
    assert [leaf.name for leaf in others] == left_out
    columns = columns_of(KEY.columns(), kept.columns())
    assert len(columns) + len(others) == 1 + len(list(value.columns()))
    encode_schema(Schema("c", "1", "m", "", columns))  # raises where a decoder would not take it


def test_the_map_that_can_t_be_read_is_named() -> None:
    def refused() -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    counts = SimpleNamespace(name="counts", read=refused)
    collector = SimpleNamespace(name="c", maps=[counts], before_snapshot=None, iterators=[], files=[])
    origin = Origin("a", "h", "b", 1)
    with pytest.raises(ReadError, match="map 'counts' can't be read: No space left on device"):
        tick(cast(RunningCollector, collector), origin, cast(Ledger, None), [], 1 << 20)


PINNED = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, NUMBER);
    __uint(pinning, LIBBPF_PIN_BY_NAME);
} kept SEC(".maps");

SEC("tp_btf/sched_process_exec")
int on_exec(void *ctx)
{
    __u32 first = 0;
    NUMBER *count = bpf_map_lookup_elem(&kept, &first);

    if (count)
        __sync_fetch_and_add(count, 1);
    return 0;
}

char LICENSE[] SEC("license") = "GPL";
"""
_WITH_BPFFS = """
mount -t bpf bpf /sys/fs/bpf
for file; do
    "$0" once "$file" --after 200ms --format json
    bpftool map update pinned /sys/fs/bpf/kept key 0 0 0 0 value 0 0 0 1 0 0 0 0
done
"$0" once "$file" --after 200ms
"""
_LEFT_THERE = 1 << 24


@needs_root
def test_a_pinned_map_is_gone_on_with_and_one_of_another_size_is_named(tmp_path: Path) -> None:
    files = []
    for name, number in (("first", "__u64"), ("second", "__u64"), ("narrow", "__u32")):
        files.append(tmp_path / f"{name}.bpf.c")
        files[-1].write_text(PINNED.replace("NUMBER", number))
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", _WITH_BPFFS, BPFLEET, *map(str, files)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1, done.stderr  # of the last one
    records = [json.loads(line) for line in done.stdout.splitlines()]
    counts = {one["collector"]: one["rows"][0]["value"] for one in records if one["kind"] == "snapshot"}
    assert list(counts) == ["first", "second"]
    assert counts["first"] < _LEFT_THERE <= counts["second"]
    assert "map 'kept' is pinned at /sys/fs/bpf/kept, and of another kind or size there" in done.stderr


@needs_root
def test_an_object_where_only_root_can_go_and_of_any_name(tmp_path: Path) -> None:
    """As in root's home, with a name as many projects give their objects, and no words beside it."""
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    source = HITS.replace("SECTION", "tp_btf/sched_process_exec")
    Objects(home).compile(source, "hits").rename(home / "hits_kern.o")
    done = subprocess.run(
        [BPFLEET, "once", "hits_kern.o", "--after", "200ms", "--format", "json"],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=home,
    )
    assert (done.returncode, done.stderr) == (0, "")
    maps = [one["map"] for one in map(json.loads, done.stdout.splitlines()) if one["kind"] == "snapshot"]
    assert maps == [".bss"]


@needs_root
def test_any_object_of_a_folder_is_a_collector(start_agent: Start, tmp_path: Path) -> None:
    folder = programs_in(tmp_path)
    source = HITS.replace("SECTION", "tp_btf/sched_process_exec")
    Objects(folder).compile(source, "hits").rename(folder / "hits_kern.o")
    (folder / "hits.bpf.c").unlink()
    (folder / "hits_kern.toml").write_text('version = "9"\n')
    agent = agent_of(start_agent, folder)
    assert agent.next_snapshot("hits_kern", ".bss")["version"] == "9"


@needs_root
def test_events_have_the_fields_of_the_struct_that_the_source_submits(
    start_agent: Start, tmp_path: Path
) -> None:
    """A local pointer to it is all that there is: clang leaves such a struct out of an object."""
    folder = programs_in(tmp_path)
    (folder / "execs.bpf.c").write_text(
        HITS.replace("__u64 hits", RINGS)
        .replace("    __sync_fetch_and_add(&hits, 1);", SUBMITS)
        .replace("SECTION", "tp_btf/sched_process_exec")
    )
    agent = agent_of(start_agent, folder)
    agent.next_snapshot("execs", "rb")
    done = subprocess.run(["/bin/true"], check=True)
    assert done.returncode == 0

    def seen(map_name: str) -> list[dict[str, Any]]:
        return [row for one in agent.snapshots("execs", map_name) for row in one["rows"]]

    agent.wait_for(lambda: any(row["comm"] == "true" for row in seen("rb")))
    agent.wait_for(lambda: any(row["who.uid"] == os.getuid() for row in seen("raw")))
    assert {"event_number", "pid", "comm"} == set(seen("rb")[0])
    (said,) = agent.status()["collectors"]
    types = {one["name"]: one.get("event_type") for one in said["maps"]}
    assert types == {
        "rb": "struct started, which the source submits",
        "raw": "struct owner, which the source submits",
    }


UNSIZED = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __type(key, __u32);
    __type(value, __u32);
} by_stack SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_STACK_TRACE);
    __uint(key_size, 4);
} stacks SEC(".maps");

SEC("tp_btf/sched_process_exec")
int on_exec(void *ctx)
{
    __u32 id = bpf_get_stackid(ctx, &stacks, 0), one = 1;

    bpf_map_update_elem(&by_stack, &id, &one, BPF_ANY);
    return 0;
}

char LICENSE[] SEC("license") = "GPL";
"""


@needs_root
def test_sizes_that_an_object_leaves_to_its_own_loader_are_said_beside_it(
    start_agent: Start, tmp_path: Path
) -> None:
    folder = programs_in(tmp_path)
    (folder / "unsized.bpf.c").write_text(UNSIZED)
    (folder / "unsized.toml").write_text(
        "[maps.by_stack]\nmax_entries = 77\n[maps.stacks]\nmax_entries = 1024\n"
    )
    agent = agent_of(start_agent, folder)
    assert agent.next_snapshot("unsized", "by_stack")["max_entries"] == 77
    subprocess.run(["/bin/true"], check=True)
    agent.wait_for(lambda: agent.snapshots("unsized", "by_stack")[-1]["rows"])
    assert agent.next_snapshot("unsized", "stacks")["rows"]

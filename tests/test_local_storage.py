"""Local storage of tasks, cgroups and sockets, on the real kernel."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent_process import Agent, run

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

Start = Callable[..., Agent]

HEAD = """
#include <bpfleet/bpfleet.h>

struct numbers { __u64 calls; __u32 last; char word[9]; };

struct {
    __uint(type, %s);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, int);
    __type(value, struct numbers);
} stored SEC(".maps");

char LICENSE[] SEC("license") = "Dual BSD/GPL";
"""

BY_TASK = (
    HEAD % "BPF_MAP_TYPE_TASK_STORAGE"
    + """
SEC("tp_btf/sys_enter")
int BPF_PROG(on_call, void *regs, long number)
{
    struct task_struct *task = bpf_get_current_task_btf();
    struct numbers *mine;

    if (number != 121) /* getpgid */
        return 0;
    mine = bpf_task_storage_get(&stored, task, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
    if (!mine)
        return 0;
    mine->calls++;
    mine->last = task->pid;
    __builtin_memcpy(mine->word, "eight...", 9);
    return 0;
}
"""
)

BY_CGROUP = (
    HEAD % "32 /* BPF_MAP_TYPE_CGRP_STORAGE */"
    + """
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct cgroup;
struct css_set { struct cgroup *dfl_cgrp; };
struct task_struct___with_cgroups { struct css_set *cgroups; };
#pragma clang attribute pop

static void *(*const get_value)(void *map, void *cgroup, void *value, __u64 flags) = (void *)210;

SEC("tp_btf/sys_enter")
int BPF_PROG(on_call, void *regs, long number)
{
    struct task_struct___with_cgroups *task = (void *)bpf_get_current_task_btf();
    struct numbers *mine;

    if (number != 121)
        return 0;
    mine = get_value(&stored, task->cgroups->dfl_cgrp, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
    if (mine)
        __sync_fetch_and_add(&mine->calls, 1);
    return 0;
}
"""
)

BY_SOCKET = (
    HEAD % "BPF_MAP_TYPE_SK_STORAGE"
    + """
SEC("cgroup/connect4")
int on_connect(struct bpf_sock_addr *ctx)
{
    struct numbers *mine;

    if (!ctx->sk)
        return 1;
    mine = bpf_sk_storage_get(&stored, ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
    if (mine)
        mine->calls++;
    return 1;
}
"""
)

LOCKED = """
#include <bpfleet/bpfleet.h>

struct locked { struct bpf_spin_lock lock; __u32 number; };

struct {
    __uint(type, BPF_MAP_TYPE_TASK_STORAGE);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, int);
    __type(value, struct locked);
} locked SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 2);
    __type(key, __u32);
    __type(value, __u64);
} plain SEC(".maps");

SEC("tp_btf/sys_enter")
int on_call(void *ctx)
{
    __u32 zero = 0;

    if (!bpf_task_storage_get(&locked, bpf_get_current_task_btf(), 0, 0))
        return 0;
    return !!bpf_map_lookup_elem(&plain, &zero);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
"""


def start(start_agent: Start, folder: Path, source: str) -> Agent:
    made = folder / "store.bpf.c"
    made.write_text(source)
    agent = start_agent(f'[agent]\ninterval = "100ms"\n[collectors."{made}"]\n')
    agent.next_snapshot("store", "stored")
    return agent


def test_each_thread_that_has_a_value_has_a_row(start_agent: Start, tmp_path: Path) -> None:
    agent = start(start_agent, tmp_path, BY_TASK)
    ready, done = threading.Barrier(6), threading.Event()
    made: dict[int, int] = {}

    def call(times: int) -> None:
        for _ in range(times):
            os.getpgid(0)
        made[threading.get_native_id()] = times
        ready.wait(30)
        done.wait(30)

    threads = [threading.Thread(target=call, args=(100 + number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    try:
        ready.wait(30)
        snapshot = agent.next_snapshot("store", "stored")
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert snapshot["method"] == "iter"
    assert snapshot["complete"]
    assert snapshot["entries"] == len(snapshot["rows"])
    mine = {row["pid"]: row for row in snapshot["rows"] if row["pid"] in made}
    comm = Path("/proc/self/comm").read_text().strip()
    assert mine == {
        pid: {"tgid": os.getpid(), "pid": pid, "comm": comm, "calls": times, "last": pid, "word": "eight..."}
        for pid, times in made.items()
    }
    gone = agent.next_snapshot("store", "stored")
    assert not {row["pid"] for row in gone["rows"]} & set(made)


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A cgroup of the test's own."""
    root = next(
        (
            Path(line.split()[4])
            for line in Path("/proc/self/mountinfo").read_text().splitlines()
            if line.split(" - ")[1].split()[0] == "cgroup2"
        ),
        None,
    )
    if root is None:
        pytest.skip("no cgroup2 file system is mounted here")
    made = root / f"bpfleet-test-{os.getpid()}"
    made.mkdir()
    yield made
    made.rmdir()


def test_each_cgroup_that_has_a_value_has_a_row(start_agent: Start, tmp_path: Path, cgroup: Path) -> None:
    agent = start(start_agent, tmp_path, BY_CGROUP)
    before = {row["cgroup"] for row in agent.next_snapshot("store", "stored")["rows"]}
    number = cgroup.stat().st_ino
    assert number not in before
    script = "import os, sys; open(sys.argv[1], 'w').write('0'); [os.getpgid(0) for _ in range(321)]"
    subprocess.run(["/usr/bin/python3", "-c", script, cgroup / "cgroup.procs"], check=True)
    rows = {row["cgroup"]: row["calls"] for row in agent.next_snapshot("store", "stored")["rows"]}
    assert rows[number] == 321


def test_each_socket_that_has_a_value_has_a_row(start_agent: Start, tmp_path: Path, cgroup: Path) -> None:
    made = tmp_path / "store.bpf.c"
    made.write_text(BY_SOCKET)
    (tmp_path / "store.toml").write_text(
        f'[[attach]]\nprogram = "on_connect"\nkind = "cgroup"\ntarget = "{cgroup}"\n'
    )
    agent = start_agent(f'[agent]\ninterval = "100ms"\n[collectors."{made}"]\n')
    agent.wait_for(lambda: agent.snapshots("store") or "is not read" in agent.stderr)
    if "Operation not permitted" in agent.stderr:
        pytest.skip("this kernel refuses iter/bpf_sk_storage_map programs with EPERM, as it does fentry")
    here = cgroup.parent / "cgroup.procs"
    (cgroup / "cgroup.procs").write_text("0")
    try:
        with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as client:
            client.connect(server.getsockname())
            cookie = struct.unpack("=Q", client.getsockopt(socket.SOL_SOCKET, 57, 8))[0]  # SO_COOKIE
            rows = {row["cookie"]: row["calls"] for row in agent.next_snapshot("store", "stored")["rows"]}
    finally:
        here.write_text("0")
    assert rows == {cookie: 1}


def test_a_map_whose_values_hold_a_lock_is_left_out_with_the_reason(
    start_agent: Start, tmp_path: Path
) -> None:
    source = tmp_path / "locks.bpf.c"
    source.write_text(LOCKED)
    agent = start_agent(f'[agent]\ninterval = "100ms"\n[collectors."{source}"]\n')
    agent.next_snapshot("locks", "plain")
    assert "map 'locked' is not read: no iterator goes through this task_storage map" in agent.stderr
    assert "Traceback" not in agent.stderr
    assert agent.snapshots("locks", "locked") == []


def test_storage_of_inodes_is_the_programs_own(shared_path: Path) -> None:
    source = shared_path / "inodes.bpf.c"
    text = LOCKED.replace("TASK_STORAGE", "INODE_STORAGE").replace("struct bpf_spin_lock lock; ", "")
    source.write_text(text[: text.index('SEC("tp_btf')] + text[text.index("char LICENSE") :])
    shown = run("once", str(source), "--after", "10ms", "--format", "table")
    assert "inodes.plain" in shown.stdout
    assert "inodes.locked" not in shown.stdout

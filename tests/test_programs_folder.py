"""Collectors that are files in a folder: programs for any libbpf loader, with words beside them or none."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent_process import Agent, run

Start = Callable[..., Agent]

EXECS = """
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

const volatile __u64 step = 1;

struct exec_key { __u32 uid; char comm[16]; };

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_HASH);
    __uint(max_entries, 1000);
    __type(key, struct exec_key);
    __type(value, __u64);
} execs SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 2);
    __uint(key_size, 4);
    __uint(value_size, 8);
} untyped SEC(".maps");

SEC("tp_btf/sched_process_exec")
int on_exec(void *ctx)
{
    struct exec_key key = {};
    __u64 none = 0, *count;
    __u32 first = 0;
    int unused; /* a warning, as foreign sources have them */

    bpf_get_current_comm(key.comm, sizeof(key.comm));
    bpf_map_update_elem(&execs, &key, &none, BPF_NOEXIST);
    count = bpf_map_lookup_elem(&execs, &key);
    if (count)
        *count += step;
    count = bpf_map_lookup_elem(&untyped, &first);
    if (count)
        __sync_fetch_and_add(count, 1);
    return 0;
}

SEC("xdp")
int nowhere(void *ctx)
{
    return 2;
}

char LICENSE[] SEC("license") = "GPL";
"""

WORDS = """
help = "Programs started"
version = "7"
[knobs]
step = 3
[maps.execs]
help = "By user and command"
fields.value = { name = "started", meaning = "counter", unit = "programs" }
[maps.untyped]
read = false
"""


def folder_of(directory: Path, **files: str) -> Path:
    folder = directory / "programs"
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("_", ".", name.count("_"))).write_text(text)
    return folder


def start(start_agent: Start, folder: Path, more: str = "") -> Agent:
    return start_agent(f'[agent]\ninterval = "100ms"\nprograms = "{folder}"\n{more}')


def started(snapshot: dict[str, Any], comm: str, column: str) -> int:
    return sum(row[column] for row in snapshot["rows"] if row["comm"] == comm)


def test_a_source_for_any_libbpf_loader_is_a_collector_as_it_is(start_agent: Start, tmp_path: Path) -> None:
    agent = start(start_agent, folder_of(tmp_path, execs_bpf_c=EXECS))
    before = agent.next_snapshot("execs", "execs")
    for _ in range(23):
        subprocess.run(["/bin/true"], check=True)
    after = agent.next_snapshot("execs", "execs")
    # Per-CPU numbers of which nothing is said are summed.
    assert started(after, "true", "value") - started(before, "true", "value") == 23
    assert {row["key"] for row in agent.next_snapshot("execs", "untyped")["rows"]} == {0, 1}
    (collector,) = agent.status()["collectors"]
    assert [one["attached"] for one in collector["programs"]] == ["tp_btf/sched_process_exec", ""]


def test_words_beside_it_give_meanings_names_and_knobs(start_agent: Start, tmp_path: Path) -> None:
    agent = start(start_agent, folder_of(tmp_path, execs_bpf_c=EXECS, execs_toml=WORDS))
    before = agent.next_snapshot("execs", "execs")
    for _ in range(11):
        subprocess.run(["/bin/true"], check=True)
    after = agent.next_snapshot("execs", "execs")
    assert started(after, "true", "started") - started(before, "true", "started") == 33
    schemas = [one for one in agent.records if one["kind"] == "schema"]
    assert {one["map"] for one in schemas} == {"execs"}
    assert (schemas[0]["version"], schemas[0]["help"]) == ("7", "By user and command")
    (column,) = [one for one in schemas[0]["columns"] if one["part"] == "value"]
    assert (column["name"], column["meaning"], column["unit"]) == ("started", "counter", "programs")


def test_a_table_of_the_configuration_sets_or_switches_off_a_file(start_agent: Start, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, first_bpf_c=EXECS, second_bpf_c=EXECS)
    more = '[collectors.first]\nread = ["key"]\n[collectors.second]\nenabled = false\n'
    agent = start(start_agent, folder, more)
    assert agent.next_snapshot("first", "execs")["method"] == "key"
    states = {one["name"]: one["state"] for one in agent.status()["collectors"]}
    assert states == {"first": "running", "second": "disabled"}


def test_a_compiled_object_goes_before_a_source_of_its_name(start_agent: Start, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, execs_bpf_c=EXECS)
    agent = start(start_agent, folder)
    agent.next_snapshot("execs", "execs")
    agent.stop()
    (folder / "execs.bpf.c").write_text("not C any more")
    # What the agent compiled itself is no object of its own: the source is what is meant.
    wrong = run("once", "execs", "--after", "200ms", "--config", str(agent.config), "--format", "json")
    assert "clang refused execs.bpf.c" in wrong.stderr
    (folder / "execs.bpf.o.inputs").unlink()
    again = run("once", "execs", "--after", "200ms", "--config", str(agent.config), "--format", "json")
    assert '"map":"execs"' in again.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("[maps.exces]\n", ["no map 'exces'", "did you mean 'execs'?"]),
        ('[maps.execs]\nfields.cnt.unit = "x"\n', ["no field 'cnt'", "uid, comm, value"]),
        ("[knobs]\nstpe = 1\n", ["no knob 'stpe'", "did you mean 'step'?"]),
        ("halp = 1\n", ["there is no setting 'halp'", "did you mean 'help'?", "execs.toml"]),
        ("[[attach]\n", ["not TOML", "execs.toml"]),
        ('[[attach]]\nprogram = "on_exe"\nkind = "raw_tp"\n', ["no program 'on_exe'", "on_exec"]),
        ('[maps.execs.fields.value]\nmeaning = "countre"\n', ["countre", "maps[...]"]),
    ],
)
def test_words_that_are_wrong_are_named_and_cost_their_own_file(
    start_agent: Start, tmp_path: Path, words: str, said: list[str]
) -> None:
    agent = start(start_agent, folder_of(tmp_path, execs_bpf_c=EXECS, execs_toml=words, good_bpf_c=EXECS))
    agent.next_snapshot("good", "execs")
    for word in (*said, "'execs'", "remedy"):
        assert word in agent.stderr
    assert "Traceback" not in agent.stderr


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    config = tmp_path / "bpfleet.toml"
    config.write_text(f'[agent]\nstate = "{tmp_path}/state"\nprograms = "{tmp_path}/none"\n')
    done = run("once", "--config", str(config))
    assert done.returncode == 2
    assert "the folder of programs can't be read" in done.stderr
    assert f"{tmp_path}/none" in done.stderr


def test_an_iterators_program_runs_before_each_snapshot(start_agent: Start, tmp_path: Path) -> None:
    source = """
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

__u64 runs = 0;

struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 8192);
    __type(key, int);
    __type(value, __u64);
} seen SEC(".maps");

SEC("iter/task")
int each_task(struct bpf_iter__task *ctx)
{
    struct task_struct *task = ctx->task;

    if (!task) {
        runs++;
        return 0;
    }
    int pid = task->pid;
    __u64 run = runs;
    bpf_map_update_elem(&seen, &pid, &run, BPF_ANY);
    return 0;
}

char LICENSE[] SEC("license") = "GPL";
"""
    agent = start(start_agent, folder_of(tmp_path, tasks_bpf_c=source))
    agent.next_snapshot("tasks", "seen")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        rows = {row["key"]: row["value"] for row in agent.next_snapshot("tasks", "seen")["rows"]}
        later = {row["key"]: row["value"] for row in agent.next_snapshot("tasks", "seen")["rows"]}
        # The process is alive: each walk sees it. A run is one more than the one before.
        assert later[child.pid] > rows[child.pid] > 0
        assert later[os.getpid()] == later[child.pid]

"""Stacks as text, from the real kernel, of a program whose calls are known."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent_process import Agent, run
from apart import apart, source_file
from bcc_sources import opened
from bpfleet.loader.schema_check import check_schema
from bpfleet.loader.stacks import named_stack_maps
from bpfleet.reading.ladder import MapReader
from bpfleet.reading.stacks import Stack, StackMap
from bpfleet.schema import Map, counter, label, stack
from bpfleet.worker.stacks import _call_sites, folded

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

Start = Callable[..., Agent]

SOURCE = """
#include <bpfleet/bpfleet.h>

struct key {
    __u32 tgid;
    __s32 kernel_stack;
    __s32 user_stack;
    char comm[16];
};

BPFLEET_FAILED_INSERTS(stacks);

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 4096);
    __type(key, struct key);
    __type(value, __u64);
} counts SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_STACK_TRACE);
    __uint(max_entries, MAX_ENTRIES);
    __uint(map_flags, MAP_FLAGS);
    __uint(key_size, 4);
    __uint(value_size, 127 * FRAME_SIZE);
} stacks SEC(".maps");

SEC("tracepoint/syscalls/sys_enter_getpgid")
int on_getpgid(void *ctx)
{
    __u64 none = 0, *count;
    struct key key = {.tgid = bpf_get_current_pid_tgid() >> 32};

    bpf_get_current_comm(key.comm, sizeof(key.comm));
    if (key.comm[0] != 'c' || key.comm[1] != 'h' || key.comm[2] != 'a')
        return 0;
    key.kernel_stack = bpfleet_stack_id(ctx, stacks, 0);
    key.user_stack = bpfleet_stack_id(ctx, stacks, BPF_F_USER_STACK);
    bpf_map_update_elem(&counts, &key, &none, BPF_NOEXIST);
    count = bpf_map_lookup_elem(&counts, &key);
    if (count)
        __sync_fetch_and_add(count, 1);
    return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
"""

WORDS = """
[maps.counts.fields.kernel_stack]
stack = "stacks"

[maps.counts.fields.user_stack]
stack = "stacks"

[maps.counts.fields.value]
name = "calls"
meaning = "counter"
"""


@pytest.fixture(scope="module")
def chain() -> Iterator[Path]:
    """A program of known calls, where anybody may read it: pytest's folders are its own."""
    with tempfile.TemporaryDirectory(prefix="bpfleet-test-") as made:
        Path(made).chmod(0o755)
        program = Path(made) / "chain"
        source = Path(__file__).with_name("stack_chain.c")
        subprocess.run(["gcc", "-O0", "-g0", "-o", program, source], check=True)
        yield program


def collector(folder: Path, *, entries: int = 4096, flags: int = 0, words: str = WORDS) -> Path:
    source = folder / "chains.bpf.c"
    text = SOURCE.replace("MAX_ENTRIES", str(entries)).replace("MAP_FLAGS", str(flags))
    source.write_text(text.replace("FRAME_SIZE", "32" if flags else "8"))
    (folder / "chains.toml").write_text(words)
    return source


@contextmanager
def calling(program: Path, *numbers: int) -> Iterator[subprocess.Popen[str]]:
    """The program, once it has made its calls; it ends with the block."""
    started = subprocess.Popen(
        [program, *map(str, numbers)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert started.stdout is not None
    assert started.stdin is not None
    try:
        assert started.stdout.readline() == "done\n"
        yield started
    finally:
        started.stdin.close()
        started.wait(10)
        started.stdout.close()


def texts(agent: Agent, map_name: str = "counts_stacks") -> dict[str, str]:
    """Every text told so far, by its hash."""
    told = agent.snapshots("chains", map_name)
    return {row["stack"]: row["text"] for one in told for row in one["rows"]}


def calls_by_text(agent: Agent, process: int) -> dict[str, int]:
    """Calls of a process by the text of their stack, from a snapshot that begins now."""
    rows = agent.next_snapshot("chains", "counts")["rows"]
    known = texts(agent)
    return {known[row["stack"]]: row["calls"] for row in rows if row["tgid"] == process}


def user_part(text: str) -> list[str]:
    return [frame for frame in text.split(";") if not frame.endswith("_[k]")]


def start(start_agent: Start, source: Path) -> Agent:
    agent = start_agent(f'[agent]\ninterval = "100ms"\n[collectors."{source}"]\n')
    agent.next_snapshot("chains", "counts")
    return agent


def test_each_stack_is_told_as_the_calls_that_were_made(
    start_agent: Start, tmp_path: Path, chain: Path
) -> None:
    agent = start(start_agent, collector(tmp_path))
    with calling(chain, 300, 200) as program:
        found = calls_by_text(agent, program.pid)
    by_turn = {tuple(user_part(text)[-3:]): (text, calls) for text, calls in found.items()}
    assert {turn: calls for turn, (_, calls) in by_turn.items()} == {
        ("main", "left_turn", "innermost"): 300,
        ("main", "right_turn", "innermost"): 200,
    }
    for text, _ in by_turn.values():
        assert text.startswith("chain;")
        assert "__libc_start" in text or "[libc.so.6+" in text
        inside = [frame for frame in text.split(";") if frame.endswith("_[k]")]
        assert text.endswith(";" + ";".join(inside))
        assert "do_syscall_64_[k]" in inside


def test_a_text_is_told_once_and_holds_for_as_long_as_its_row(
    start_agent: Start, tmp_path: Path, chain: Path
) -> None:
    agent = start(start_agent, collector(tmp_path))
    with calling(chain, 3, 0) as program:
        before = calls_by_text(agent, program.pid)
    # The program has ended: it could not be named anew.
    for _ in range(3):
        assert calls_by_text(agent, program.pid) == before
    told = [row["stack"] for one in agent.snapshots("chains", "counts_stacks") for row in one["rows"]]
    assert len(told) == len(set(told)) > 0
    first, *later = agent.snapshots("chains", "counts_stacks")
    assert first["complete"]
    assert not any(one["complete"] for one in later)


def test_the_next_worker_tells_all_texts_again(start_agent: Start, tmp_path: Path, chain: Path) -> None:
    agent = start(start_agent, collector(tmp_path))
    with calling(chain, 5, 4) as program:
        before = calls_by_text(agent, program.pid)
        worker = agent.child("bpfleet.worker")
        told = len(agent.snapshots("chains", "counts_stacks"))
        os.kill(worker, signal.SIGKILL)
        agent.child("bpfleet.worker", other_than=worker)
        agent.wait_for(lambda: len(agent.snapshots("chains", "counts_stacks")) > told)
        again = agent.snapshots("chains", "counts_stacks")[told]
        assert again["complete"]
        assert {row["text"] for row in again["rows"]} >= set(before)
        assert calls_by_text(agent, program.pid) == before


def test_a_program_that_ended_before_it_was_met_has_no_names(
    start_agent: Start, tmp_path: Path, chain: Path
) -> None:
    agent = start_agent(f'[agent]\ninterval = "3s"\n[collectors."{collector(tmp_path)}"]\n')
    agent.next_snapshot("chains", "counts")
    with calling(chain, 2, 0) as program:
        pass
    (text,) = calls_by_text(agent, program.pid)
    assert set(user_part(text)) == {"chain", "[unknown]"}
    assert "do_syscall_64_[k]" in text


def test_stacks_by_build_id_have_names_after_their_program_has_ended(
    start_agent: Start, tmp_path: Path, chain: Path
) -> None:
    agent = start(start_agent, collector(tmp_path, flags=1 << 5))
    with calling(chain, 1, 0) as program:
        assert len(calls_by_text(agent, program.pid)) == 1  # its file is known now
    with calling(chain, 0, 7) as program:
        pass
    found = calls_by_text(agent, program.pid)
    assert {tuple(user_part(text)[-3:]): calls for text, calls in found.items()} == {
        ("main", "right_turn", "innermost"): 7
    }


def test_stacks_that_the_map_has_no_place_for_are_counted(
    start_agent: Start, tmp_path: Path, chain: Path
) -> None:
    agent = start(start_agent, collector(tmp_path, entries=1))
    with calling(chain, 30, 20) as program:
        found = calls_by_text(agent, program.pid)
        told = agent.next_snapshot("chains", "counts_stacks")
    # Four stacks (two of the program, and the kernel's as often) ask for the one place, which the first has.
    assert sum(found.values()) == 50
    lost = sum(text.count("[lost: EEXIST]") * calls for text, calls in found.items())
    assert told["losses"]["failed_insert"] == lost > 0
    assert told["max_entries"] == 1


def test_deep_stacks_are_told_as_deep_as_the_kernel_has_them(
    start_agent: Start, tmp_path: Path, chain: Path
) -> None:
    agent = start(start_agent, collector(tmp_path))
    with calling(chain, 1, 0, 100) as program:
        (text,) = calls_by_text(agent, program.pid)
    assert user_part(text).count("depth") == 101
    assert user_part(text)[-2:] == ["left_turn", "innermost"]


def test_a_text_that_is_too_long_ends_with_whole_frames_and_says_so() -> None:
    frames = [f"{number:03}{'x' * 97}" for number in range(60)]
    text = folded(frames)
    assert len(text) <= 4096
    *whole, last = text.decode().split(";")
    assert last == "[cut]"
    assert whole == frames[: len(whole)]
    assert len(whole) == 40
    assert folded(frames[:40]).decode().split(";") == frames[:40]


def test_once_shows_the_texts_where_rows_name_them(tmp_path: Path, chain: Path) -> None:
    with subprocess.Popen([chain, "2000000000", "0"], stdout=subprocess.DEVNULL) as program:
        try:
            shown = run("once", str(collector(tmp_path)), "--after", "500ms", "--format", "table")
        finally:
            program.kill()
    assert shown.returncode == 0, shown.stderr
    row = next(line for line in shown.stdout.splitlines() if "left_turn" in line)
    assert ";main;left_turn;innermost;" in row
    assert row.split()[0] == str(program.pid)
    assert "counts_stacks" not in shown.stdout


def test_without_words_a_map_of_stacks_is_read_as_addresses(
    start_agent: Start, tmp_path: Path, chain: Path
) -> None:
    agent = start(start_agent, collector(tmp_path, words=""))
    with calling(chain, 1, 1) as program:
        rows = agent.next_snapshot("chains", "counts")["rows"]
        stacks = {row["id"]: row["addresses"] for row in agent.next_snapshot("chains", "stacks")["rows"]}
        maps = Path(f"/proc/{program.pid}/maps").read_text().splitlines()
    places = [[int(part, 16) for part in line.split()[0].split("-")] for line in maps if str(chain) in line]
    low, high = min(places)[0], max(places)[1]
    mine = [row for row in rows if row["tgid"] == program.pid]
    assert len(mine) == 2
    for row in mine:
        addresses = stacks[row["user_stack"]]
        assert len(addresses) == 127
        assert low <= addresses[0] < high
        assert all(address >= 1 << 63 for address in stacks[row["kernel_stack"]] if address)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (WORDS.replace('"stacks"', '"counts"'), "no map of type stack_trace"),
        (
            WORDS.replace('"stacks"', '"stacks"\nprocess = "nobody"'),
            "field 'nobody', which the map does not",
        ),
        (WORDS + 'stack = "stacks"', "field 'calls'"),
        (WORDS + '[maps.counts.fields.tgid]\nname = "stack"', "has a field `stack`"),
    ],
)
def test_words_that_make_no_sense_are_refused_with_what_there_is(
    tmp_path: Path, words: str, said: str
) -> None:
    answer: Any = run("once", str(collector(tmp_path, words=words)), "--after", "10ms")
    if "calls" in said:
        # A number of 64 bits may hold an id: it is one that the map does not have.
        assert answer.returncode == 0
        return
    assert answer.returncode != 0
    assert said in answer.stderr
    assert "Traceback" not in answer.stderr


BCC = """
struct key_t {
    u32 tgid;
    int kernel_stack;
    int user_stack;
};
BPF_HASH(counts, struct key_t);
BPF_STACK_TRACE(stacks, 1024);

TRACEPOINT_PROBE(syscalls, sys_enter_sched_getscheduler)
{
    struct key_t key = {.tgid = bpf_get_current_pid_tgid() >> 32};

    key.kernel_stack = stacks.get_stackid(args, 0);
    key.user_stack = stacks.get_stackid(args, BPF_F_USER_STACK);
    counts.increment(key);
    return 0;
}
"""


def test_stacks_of_a_bcc_program_are_found_by_its_ids(tmp_path: Path) -> None:
    source = source_file(tmp_path, BCC)
    schema = Map(
        "counts",
        key=(label("tgid", "u32"), stack("kernel_stack", "stacks"), stack("user_stack", "stacks")),
        value=(counter("calls"),),
    )

    def execute() -> list[tuple[int, int, list[bool]]]:
        one = opened(source)
        compiled = {made.name: made for made in one.maps()}
        layouts = check_schema("c", [schema], compiled)
        one.load()
        (name,) = named_stack_maps("c", layouts, compiled)
        one.attach([])
        for _ in range(30):
            os.sched_getscheduler(0)
        stacks = StackMap(compiled[name].fd)
        read = MapReader(compiled["counts"].fd, *layouts["counts"]).read()
        rows = zip(*(column.tolist() for column in read.columns), strict=True)
        found = []
        for tgid, in_kernel, in_program, calls in rows:
            there = [stacks.get(number) for number in (in_kernel, in_program)]
            if tgid == os.getpid():
                sides = [bool((made.addresses >= 1 << 63).all()) for made in there if made is not None]
                found.append((tgid, calls, sides))
        return found

    found = apart(execute)
    assert sum(calls for _, calls, _ in found) == 30
    assert all(sides == [True, False] for _, _, sides in found)


def test_callers_are_named_by_their_call_not_by_where_it_returns_to() -> None:
    """A call at the very end of a function returns to what follows it."""
    assert _call_sites(Stack(np.array([0x1000, 0x2000, 0x3000], np.uint64))) == [0x1000, 0x1FFF, 0x2FFF]
    assert _call_sites(Stack(np.empty(0, np.uint64))) == []

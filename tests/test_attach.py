"""Attach kinds of the libbpf dialect, each with a known number of events on the real kernel; and globals."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent_process import Agent
from distributions import distribution

Start = Callable[..., Agent]

QUICK = '[agent]\ninterval = "100ms"\n[collectors.probe]\n'

PLUGIN = """
from pathlib import Path
from bpfleet import Attach, Collector, Map, core, counter, gauge, hookimpl, label

@hookimpl
def bpfleet_collectors():
    return [Collector(name="probe", version="1", help="", program=core(Path(r"{source}")),
                      maps={maps}, attach={attach})]
"""

GLOBALS = """
#include <bpfleet/bpfleet.h>

const volatile __u32 unused = 7;
__u32 last = 0;
__u64 hits = 0;
struct {{ __u32 ups; __s16 downs; }} nested;

SEC("{section}")
int probe({context})
{{
	{condition}
	__sync_fetch_and_add(&hits, 1);
	nested.downs--;
	last = 42;
	return 0;
}}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
"""

HITS = '(Map(".bss", key=(), value=(counter("hits"),)),)'


def start_probe(
    start_agent: Start,
    directory: Path,
    section: str,
    attach: str = "()",
    *,
    context: str = "void *ctx",
    condition: str = "",
    maps: str = HITS,
) -> Agent:
    source = directory / "probe.bpf.c"
    source.write_text(GLOBALS.format(section=section, context=context, condition=condition))
    module = PLUGIN.format(source=source, attach=attach, maps=maps)
    return start_agent(QUICK, **distribution(directory, "probe", {"collector.probe": "probe"}, module))


def hits(agent: Agent) -> int:
    snapshot: dict[str, Any] = agent.next_snapshot("probe", ".bss")
    assert snapshot["method"] == "mmap"
    assert snapshot["complete"]
    (row,) = snapshot["rows"]
    return int(row["hits"])


@pytest.fixture(scope="module")
def worker_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program whose function `work` is called as often as its argument says."""
    directory = tmp_path_factory.mktemp("bin")
    source = directory / "works.c"
    source.write_text(
        "#include <stdlib.h>\n"
        '__attribute__((noinline)) int work(int x) { __asm__ volatile(""); return x + 1; }\n'
        "int main(int argc, char **argv) { int n = 0; while (n < atoi(argv[1])) n = work(n); return 0; }\n"
    )
    program = directory / "works"
    subprocess.run(["gcc", "-O1", "-o", program, source], check=True)
    return program


@pytest.mark.parametrize("kind", ["uprobe", "uretprobe"])
@pytest.mark.parametrize("how", ["attach list", "section name"])
def test_a_probe_on_a_function_sees_every_call(
    start_agent: Start, tmp_path: Path, worker_program: Path, kind: str, how: str
) -> None:
    if how == "attach list":
        attach = f'(Attach("probe", "{kind}", "{worker_program}", "work"),)'
        agent = start_probe(start_agent, tmp_path, kind, attach)
    else:
        agent = start_probe(start_agent, tmp_path, f"{kind}/{worker_program}:work")
    before = hits(agent)
    subprocess.run([worker_program, "12345"], check=True)
    assert hits(agent) - before == 12345
    (programs,) = [one["programs"] for one in agent.status()["collectors"]]
    assert programs[0]["attached"] == f"{kind}/{worker_program}:work"


COMM = """
	char comm[16];
	bpf_get_current_comm(comm, sizeof(comm));
	if (comm[0] != 'w' || comm[1] != 'o' || comm[2] != 'r' || comm[3] != 'k' || comm[4] != 's')
		return 0;
"""


@pytest.mark.parametrize(
    ("section", "attach"),
    [
        ("tp_btf/sched_process_exec", "()"),
        ("raw_tp/sched_process_exec", "()"),
        ("raw_tp", '(Attach("probe", "raw_tp", "sched_process_exec"),)'),
        ("tracepoint/sched/sched_process_exec", "()"),
        ("tracepoint", '(Attach("probe", "tracepoint", "sched:sched_process_exec"),)'),
    ],
)
def test_a_tracepoint_sees_every_event(
    start_agent: Start, tmp_path: Path, worker_program: Path, section: str, attach: str
) -> None:
    agent = start_probe(start_agent, tmp_path, section, attach, condition=COMM)
    before = hits(agent)
    for _ in range(37):
        subprocess.run([worker_program, "0"], check=True)
    assert hits(agent) - before == 37


def test_one_program_in_two_places(start_agent: Start, tmp_path: Path, worker_program: Path) -> None:
    places = [f'Attach("probe", "{kind}", "{worker_program}", "work")' for kind in ("uprobe", "uprobe")]
    agent = start_probe(start_agent, tmp_path, "uprobe", f"({', '.join(places)},)")
    before = hits(agent)
    subprocess.run([worker_program, "100"], check=True)
    assert hits(agent) - before == 200


def test_global_variables_are_matched_by_name_and_read_from_memory(
    start_agent: Start, tmp_path: Path, worker_program: Path
) -> None:
    nested = "__import__('bpfleet').struct('nested', gauge('downs', 's16'))"
    maps = f"(Map('.bss', key=(), value=({nested}, gauge('last', 'u32'), counter('hits'))),)"
    section = "tp_btf/sched_process_exec"
    agent = start_probe(start_agent, tmp_path, section, condition=COMM, maps=maps)
    assert hits(agent) == 0
    for _ in range(5):
        subprocess.run([worker_program, "0"], check=True)
    (row,) = agent.next_snapshot("probe", ".bss")["rows"]
    assert row == {"nested.downs": -5, "last": 42, "hits": 5}


def test_a_global_variable_that_is_not_there_is_named(start_agent: Start, tmp_path: Path) -> None:
    agent = start_probe(
        start_agent,
        tmp_path,
        "tp_btf/sched_process_exec",
        maps='(Map(".bss", key=(), value=(counter("hits", "u32"),)),)',
    )
    agent.wait_for(lambda: "declared u32, compiled u64" in agent.stderr)
    assert "'hits'" in agent.stderr


@pytest.mark.parametrize(
    ("attach", "words"),
    [
        ('(Attach("prob", "raw_tp", "sched_switch"),)', ["no program 'prob'", "probe"]),
        ('(Attach("probe", "kprobee", "x"),)', ["no attach kind 'kprobee'", "tracepoint"]),
        (
            '(Attach("probe", "uprobe", "no-such-lib", "work"),)',
            ["no library or program 'no-such-lib'", "ldconfig"],
        ),
        ('(Attach("probe", "uprobe", "/no/such/file", "work"),)', ["no file /no/such/file"]),
        ('(Attach("probe", "uprobe", "c", "getaddrinfoo"),)', ["getaddrinfoo", "libc.so.6"]),
        ('(Attach("probe", "tracepoint", "sched:no_such"),)', ["sched:no_such"]),
    ],
)
def test_a_place_that_there_is_not_is_named(
    start_agent: Start, tmp_path: Path, attach: str, words: list[str]
) -> None:
    section = attach.split('"')[3]
    agent = start_probe(start_agent, tmp_path, section if section != "kprobee" else "raw_tp", attach)
    agent.wait_for(lambda: "does not run" in agent.stderr)
    agent.wait_for(lambda: agent.status())
    for word in (*words, "'probe'", "remedy"):
        assert word in agent.stderr
    assert "Traceback" not in agent.stderr
    assert os.path.exists(f"/proc/{agent.process.pid}")

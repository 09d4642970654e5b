"""Probes on user programs: by glob, offset and process, in containers' libraries; samples on CPUs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent_process import Agent, run
from bpfleet.loader import perf_events, rescan
from bpfleet.loader.executables import Executable
from bpfleet.spec import Attach
from two_way_programs import program_file

Start = Callable[..., Agent]

SOURCE = """
#include <bpfleet/bpfleet.h>
__u64 hits = 0;
const volatile char only[16] = "";

SEC("{section}")
int probe(void *ctx)
{{
	char comm[16] = {{}};

	bpf_get_current_comm(comm, sizeof(comm));
	for (int at = 0; at < 16 && only[0]; at++) {{
		if (comm[at] != only[at])
			return 0;
		if (!comm[at])
			break;
	}}
	__sync_fetch_and_add(&hits, 1);
	return 0;
}}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
"""

LIBRARY = """
int asked_first(int x) { __asm__ volatile(""); return x + 1; }
int asked_second(int x) { __asm__ volatile(""); return x + 2; }
int other(int x) { __asm__ volatile(""); return x + 3; }
"""

# Calls the functions of a library as often as each line of its input says, under a name of its own.
CALLER = """
import ctypes, sys
library = ctypes.CDLL(sys.argv[1])
open("/proc/self/comm", "w").write(sys.argv[2])
print("ready", flush=True)
for line in sys.stdin:
    name, times = line.split()
    function = getattr(library, name)
    for _ in range(int(times)):
        function(1)
    print("done", flush=True)
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lib")
    (folder / "asked.c").write_text(LIBRARY)
    made = folder / "libasked.so.1"
    subprocess.run(["gcc", "-O1", "-shared", "-fPIC", "-o", made, folder / "asked.c"], check=True)
    return made


class Caller:
    """A process that calls functions of a library, in a mount namespace of its own where `before` says so."""

    def __init__(self, library: Path, name: str, before: str = "") -> None:
        command = [sys.executable, "-c", CALLER, str(library), name]
        if before:
            command = ["unshare", "--mount", "sh", "-ec", f'{before}\nexec "$@"', "sh", *command]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    @property
    def pid(self) -> int:
        return self.process.pid

    def call(self, function: str, times: int) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{function} {times}\n")
        assert self.process.stdout.readline() == "done\n"


@contextmanager
def caller(library: Path, name: str, before: str = "") -> Iterator[Caller]:
    made = Caller(library, name, before)
    try:
        yield made
    finally:
        made.process.kill()
        made.process.communicate()


def start(
    start_agent: Start, directory: Path, section: str, words: str, only: str = "", more: str = ""
) -> Agent:
    knobs = f'attach_all = true\n[knobs]\nonly = "{only}"\n'
    program_file(directory / "programs", "probe", SOURCE.format(section=section), knobs + words)
    return start_agent(f'[agent]\ninterval = "100ms"\nprograms = "{directory}/programs"\n{more}')


def hits(agent: Agent) -> int:
    (row,) = agent.next_snapshot("probe", ".bss")["rows"]
    return int(row["hits"])


def place(kind: str, target: object, symbol: str = "", more: str = "") -> str:
    return (
        f'[[attach]]\nprogram = "probe"\nkind = "{kind}"\ntarget = "{target}"\nsymbol = "{symbol}"\n{more}\n'
    )


@pytest.mark.parametrize("kind", ["uprobe", "uretprobe", "uprobe.returns"])
def test_a_glob_means_every_function_that_it_matches(
    start_agent: Start, tmp_path: Path, library: Path, kind: str
) -> None:
    agent = start(start_agent, tmp_path, "uprobe", place(kind, library, "asked_*"))
    with caller(library, "globs") as there:
        before = hits(agent)
        there.call("asked_first", 120)
        there.call("asked_second", 31)
        there.call("other", 1000)
        assert hits(agent) - before == 151


@pytest.mark.parametrize("section", ["uprobe.multi", "uretprobe.multi"])
def test_a_section_for_many_places_works_whatever_libbpf_knows(
    start_agent: Start, tmp_path: Path, library: Path, section: str
) -> None:
    agent = start(start_agent, tmp_path, f"{section}/{library}:asked_*", "")
    with caller(library, "multi") as there:
        before = hits(agent)
        there.call("asked_first", 12)
        there.call("asked_second", 30)
        there.call("other", 99)
        assert hits(agent) - before == 42


@pytest.mark.parametrize("how", ["file offset", "symbol and offset", "in the section"])
def test_a_place_is_named_by_an_offset(start_agent: Start, tmp_path: Path, library: Path, how: str) -> None:
    (function,) = Executable(library).functions("asked_second")
    # The first instruction is one of three bytes, lea 2(%rdi),%eax, here and wherever gcc makes it.
    listed = subprocess.run(
        ["objdump", "-d", "--disassemble=asked_second", library], capture_output=True, text=True, check=True
    ).stdout
    lines = [line for line in listed.splitlines() if "\t" in line]
    first, second = (int(line.split(":")[0], 16) for line in lines[:2])
    if how == "in the section":
        agent = start(start_agent, tmp_path, f"uprobe/{library}:{function.offset:#x}", "")
    else:
        symbol = f"{function.offset:#x}" if how == "file offset" else f"asked_second+{second - first}"
        agent = start(start_agent, tmp_path, "uprobe", place("uprobe", library, symbol))
    with caller(library, "offsets") as there:
        before = hits(agent)
        there.call("asked_second", 77)
        there.call("asked_first", 5)
        assert hits(agent) - before == 77


@pytest.mark.parametrize("target", ["asked", "libasked.so.1", "the path"])
def test_one_process_is_probed_in_the_library_that_it_uses(
    start_agent: Start, tmp_path: Path, library: Path, target: str
) -> None:
    with caller(library, "mine") as mine, caller(library, "others") as others:
        name = str(library) if target == "the path" else target
        agent = start(
            start_agent, tmp_path, "uprobe", place("uprobe", name, "asked_first", f"pid = {mine.pid}")
        )
        before = hits(agent)
        mine.call("asked_first", 19)
        others.call("asked_first", 400)
        assert hits(agent) - before == 19


def copied(library: Path, tmp_path: Path, name: str) -> tuple[Path, str]:
    """A copy of the library, and the words that put it in the place of the first one in a mount namespace."""
    copy = tmp_path / f"{name}.so"
    shutil.copy(library, copy)
    return copy, f"mount --bind {copy} {library}"


def attached(agent: Agent) -> str:
    (collector,) = agent.status()["collectors"]
    return str(collector["programs"][0]["attached"])


def test_copies_in_containers_are_found_while_it_runs(
    start_agent: Start, tmp_path: Path, library: Path
) -> None:
    _, first = copied(library, tmp_path, "first")
    _, second = copied(library, tmp_path, "second")
    with caller(library, "boxed", first) as early, caller(library, "boxed") as host:
        words = place("uprobe", "asked", "asked_first", "everywhere = true")
        agent = start(start_agent, tmp_path, "uprobe", words, only="boxed", more='rescan = "300ms"\n')
        # On the host the linker does not know the library: it is in nobody's place but the processes'.
        agent.wait_for(lambda: "in 2 more files" in attached(agent))
        before = hits(agent)
        early.call("asked_first", 10)
        host.call("asked_first", 100)
        assert hits(agent) - before == 110
        with caller(library, "boxed", second) as late:
            agent.wait_for(lambda: "in 3 more files" in attached(agent))
            late.call("asked_first", 1000)
            host.call("asked_first", 1)
            assert hits(agent) - before == 1111
        # The copy that nobody uses any more is let go of.
        agent.wait_for(lambda: "in 2 more files" in attached(agent))
        # Another worker is told the same, and what is attached stays.
        os.kill(agent.child("bpfleet.worker"), 9)
        early.call("asked_first", 5)
        agent.wait_for(lambda: len(agent.children("bpfleet.worker")) == 1)
        assert hits(agent) - before == 1116
        assert "in 2 more files" in attached(agent)
    assert "Traceback" not in agent.stderr


def test_one_file_seen_through_two_overlays_is_probed_once(
    start_agent: Start, tmp_path: Path, library: Path
) -> None:
    lower = tmp_path / "image"
    lower.mkdir()
    shutil.copy(library, lower / "libasked.so.1")
    mounted = [
        f"mount -t tmpfs tmpfs /mnt && mkdir /mnt/up /mnt/work && "
        f"mount -t overlay overlay -o lowerdir={lower},upperdir=/mnt/up,workdir=/mnt/work {library.parent}"
        for _ in range(2)
    ]
    with caller(library, "layers", mounted[0]) as one, caller(library, "layers", mounted[1]) as other:
        words = place("uprobe", "asked", "asked_first", "everywhere = true")
        agent = start(start_agent, tmp_path, "uprobe", words, only="layers", more='rescan = "300ms"\n')
        agent.wait_for(lambda: "in 1 more file" in attached(agent))
        time.sleep(1)  # three more looks
        before = hits(agent)
        one.call("asked_first", 10)
        other.call("asked_first", 7)
        assert hits(agent) - before == 17


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (place("uprobe", "{library}", "asked_frist"), ["no function 'asked_frist'", "asked_first"]),
        (place("uprobe", "{library}", "nothing_*"), ["no function 'nothing_*'"]),
        (
            place("uprobe", "{library}", "asked_first+1"),
            ["no instruction begins at file offset 0x", "objdump -d"],
        ),
        (place("uprobe", "{library}", "0x100000000"), ["can't be attached", "file offset 0x100000000"]),
        (place("uprobe", "c", "*"), ["places, more than 512", "a narrower glob"]),
        (place("uprobe", "/etc/passwd", "main"), ["/etc/passwd is no ELF file of this machine"]),
        (place("uprobe", "c", "malloc", "pid = 4194303"), ["there is no process 4194303"]),
        (place("uprobe", "asked", "asked_first", f"pid = {os.getpid()}"), ["does not use 'asked'", "/maps"]),
        (place("usdt", "c", "libc:setjmp", "pid = 4194303"), ["there is no process 4194303"]),
    ],
)
def test_a_place_that_is_not_there_is_named(
    tmp_path: Path, library: Path, words: str, said: list[str]
) -> None:
    config = tmp_path / "bpfleet.toml"
    config.write_text(f'[agent]\nstate = "{tmp_path}/state"\n')
    kind = "usdt" if '"usdt"' in words else "uprobe"
    source = SOURCE.format(section=kind)
    made = program_file(
        tmp_path / "programs",
        "probe",
        source,
        "attach_all = true\n" + words.replace("{library}", str(library)),
    )
    done = run("once", str(made), "--after", "100ms", "--config", str(config))
    assert done.returncode == 1
    for word in (*said, "program 'probe'" if "ELF" not in said[0] else "remedy", "remedy"):
        assert word in done.stderr
    assert "Traceback" not in done.stderr


# ---- samples and CPUs


def test_samples_say_on_which_cpus(start_agent: Start, tmp_path: Path) -> None:
    words = place("perf_event", "cpu-clock", more="frequency = 200")
    agent = start(start_agent, tmp_path, "perf_event", words)
    cpus = ", ".join(map(str, sorted(os.sched_getaffinity(0))))
    agent.wait_for(lambda: f"on CPUs {cpus}" in attached(agent))


def test_a_cpu_that_comes_later_is_sampled_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The list of CPUs is made up; the events are the kernel's."""
    online = tmp_path / "online"
    monkeypatch.setattr(perf_events, "_ONLINE", online)
    opened: list[int] = []
    monkeypatch.setattr(
        rescan, "attach_on_cpu", lambda program, wanted, cpu: (opened.append(cpu) or os.dup(0),)
    )
    places = [Attach("probe", "perf_event", "cpu-clock")]
    online.write_text("0\n")
    known = rescan.known_at_load(places)
    online.write_text("0-1,3\n")
    found = rescan.attach_new(places, {"probe": 9}, known)
    assert opened == [1, 3]
    assert found.attached == {"probe": "on CPUs 0, 1, 3"}
    online.write_text("0,3\n")
    again = rescan.attach_new(places, {"probe": 9}, found.present)
    assert (again.new, "0 cpu 1" in again.present) == ({}, False)
    for fds in found.new.values():
        for fd in fds:
            os.close(fd)

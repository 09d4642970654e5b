"""The bcc program kind: real bcc, real kernel, each case in a process of its own as in the loader."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from apart import apart, source_file
from bcc_sources import CALLS, UPROBE, count_of, map_fd, opened
from bpfleet import kernel
from bpfleet.errors import CompileError, SchemaMismatch
from bpfleet.loader.schema_check import check_schema
from bpfleet.schema import Map, counter, label
from bpfleet.spec import Attach

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def test_nothing_is_attached_before_it_is_asked_for(tmp_path: Path) -> None:
    source = source_file(tmp_path, CALLS)

    def run() -> tuple[int, int]:
        one = opened(source)
        one.load()
        os.sched_getscheduler(0)
        before = count_of(map_fd(one, "calls"), os.getpid())
        one.attach([])
        for _ in range(17):
            os.sched_getscheduler(0)
        return before, count_of(map_fd(one, "calls"), os.getpid())

    assert apart(run) == (0, 17)


def test_what_is_attached_is_told_with_the_fds_that_keep_it(tmp_path: Path) -> None:
    source = source_file(tmp_path, CALLS)

    def run() -> list[tuple[str, str, int, bool]]:
        return [
            (one.name, one.attached, len(one.links), all(os.fstat(fd) for fd in (one.fd, *one.links)))
            for one in opened(source).attach([])
        ]

    name = "tracepoint__syscalls__sys_enter_sched_getscheduler"
    assert apart(run) == [(name, "tracepoint/syscalls:sys_enter_sched_getscheduler", 1, True)]


@pytest.mark.parametrize("target", ["c", "path"])
def test_probes_see_calls_of_a_library_function_and_what_it_returns(tmp_path: Path, target: str) -> None:
    source = source_file(tmp_path, UPROBE)
    if target == "path":
        maps = Path("/proc/self/maps").read_text().splitlines()
        target = next(line.split()[-1] for line in maps if "/libc.so.6" in line)

    def run() -> tuple[int, int]:
        wanted = [
            Attach("called", "uprobe", target, "getpriority"),
            Attach("returned", "uretprobe", target, "getpriority"),
        ]
        one = opened(source)
        one.attach(wanted)
        for _ in range(9):
            os.getpriority(os.PRIO_USER, 0)
        os.getpriority(os.PRIO_PROCESS, 0)
        os.setpriority(os.PRIO_PROCESS, 0, 7)
        os.getpriority(os.PRIO_PROCESS, 0)
        return count_of(map_fd(one, "calls"), os.getpid()), count_of(map_fd(one, "returns"), os.getpid())

    assert apart(run) == (9, 7)


def test_one_program_goes_to_several_places(tmp_path: Path) -> None:
    source = source_file(tmp_path, UPROBE)
    names = ("getpriority", "getpgid", "getsid")

    def run() -> tuple[str, int]:
        one = opened(source)
        called = one.attach([Attach("called", "uprobe", "c", name) for name in names])[0]
        os.getpriority(os.PRIO_USER, 0)
        for ask in (os.getpgid, os.getsid):
            # The program counts calls with the argument 2; whether there is such a process is no matter.
            with suppress(OSError):
                ask(2)
        return called.attached, count_of(map_fd(one, "calls"), os.getpid())

    assert apart(run) == ("uprobe/c:getpriority, uprobe/c:getpgid, uprobe/c:getsid", 3)


@pytest.mark.parametrize(
    ("head", "wanted"),
    [
        ("RAW_TRACEPOINT_PROBE(sys_enter)", []),
        ("int on_enter(struct bpf_raw_tracepoint_args *ctx)", [Attach("on_enter", "raw_tp", "sys_enter")]),
        (
            "int on_enter(void *ctx)",
            [Attach("on_enter", "tracepoint", "syscalls:sys_enter_sched_getscheduler")],
        ),
    ],
    ids=["raw tracepoint by its macro", "raw tracepoint", "tracepoint"],
)
def test_tracepoints_are_attached_as_the_source_or_the_list_says(
    tmp_path: Path, head: str, wanted: list[Attach]
) -> None:
    body = "{ u32 pid = bpf_get_current_pid_tgid() >> 32; calls.increment(pid); return 0; }"
    source = source_file(tmp_path, f"BPF_HASH(calls, u32);\n{head}\n{body}\n")

    def run() -> int:
        one = opened(source)
        one.attach(wanted)
        for _ in range(5):
            os.sched_getscheduler(0)
        return count_of(map_fd(one, "calls"), os.getpid())

    seen = apart(run)
    assert seen == 5 if "tracepoint" in [one.kind for one in wanted] else seen >= 5


KEEPER = """
import os, socket, sys
from pathlib import Path
from bpfleet.loader.bcc import open_bcc
from bpfleet.loader.tracing_mounts import mount_privately
from bpfleet.protocol import Load
mount_privately()
source = Path(sys.argv[1])
one = open_bcc(Load(collector="c", kind="bcc", source=str(source)), source.read_text())
links = [fd for program in one.attach([]) for fd in program.links]
channel = socket.socket(fileno=int(sys.argv[2]))
socket.send_fds(channel, [b"x"], [one.maps()[0].fd, *links])
"""


def test_programs_stay_attached_after_the_loader_has_exited(tmp_path: Path) -> None:
    source = source_file(tmp_path, CALLS)
    ours, theirs = socket.socketpair()
    # Exits as any Python does, with bcc's own exit handler where it were still registered.
    loader = subprocess.run(
        [sys.executable, "-c", KEEPER, str(source), str(theirs.fileno())],
        pass_fds=[theirs.fileno()],
        timeout=60,
    )
    assert loader.returncode == 0
    _, fds, _, _ = socket.recv_fds(ours, 1, 8)
    for _ in range(23):
        os.sched_getscheduler(0)
    assert count_of(fds[0], os.getpid()) == 23
    for fd in fds:
        os.close(fd)
    ours.close()
    theirs.close()


def test_knobs_and_flags_reach_the_source(tmp_path: Path) -> None:
    text = (
        "#ifndef ENTRIES\n#define ENTRIES 10\n#endif\n#ifndef LIMIT\n#define LIMIT 1\n#endif\n"
        "BPF_HASH(m, u32, u64, ENTRIES);\n"
        "#if LIMIT == 0xFFFFFFFFFFFFFFFF && defined(EXTRA)\nBPF_HASH(wide, u32);\n#endif\n"
    )
    source = source_file(tmp_path, text)

    def run() -> tuple[int, list[str]]:
        knobs = {"ENTRIES": 777, "LIMIT": 2**64 - 1}
        maps = {one.name: one for one in opened(source, knobs=knobs, cflags=("-DEXTRA",)).maps()}
        return kernel.map_info(maps["m"].fd).max_entries, sorted(maps)

    assert apart(run) == (777, ["m", "wide"])


def test_files_beside_the_source_and_in_named_folders_are_found(tmp_path: Path) -> None:
    (tmp_path / "beside.h").write_text("#define BESIDE 11\n")
    (tmp_path / "more").mkdir()
    (tmp_path / "more/further.h").write_text("#define FURTHER 5\n")
    text = '#include "beside.h"\n#include <further.h>\nBPF_HASH(m, u32, u64, BESIDE + FURTHER);\n'
    source = source_file(tmp_path, text)

    def run() -> int:
        return kernel.map_info(opened(source, cflags=("-Imore",)).maps()[0].fd).max_entries

    assert apart(run) == 16


@pytest.mark.parametrize("text", [CALLS, "this is no C\n"], ids=["compiles", "does not"])
def test_working_directory_and_fd_2_are_as_before(tmp_path: Path, text: str) -> None:
    source = source_file(tmp_path, text)

    def run() -> tuple[str, str, bool]:
        os.chdir(tmp_path)
        before = os.readlink("/proc/self/fd/2")
        with suppress(CompileError):
            opened(source).attach([])
        return os.getcwd(), str(tmp_path), os.readlink("/proc/self/fd/2") == before

    here, expected, same = apart(run)
    assert here == expected
    assert same


def test_a_relative_source_is_found_from_where_the_loader_stands(tmp_path: Path) -> None:
    source_file(tmp_path, '#include "beside.h"\nBPF_HASH(m, u32, u64, ENTRIES);\n')
    (tmp_path / "beside.h").write_text("#define ENTRIES 12\n")

    def run() -> int:
        os.chdir(tmp_path)
        return kernel.map_info(opened(Path("made.bpf.c")).maps()[0].fd).max_entries

    assert apart(run) == 12


def test_layouts_satisfy_a_schema_that_says_the_same(tmp_path: Path) -> None:
    source = source_file(tmp_path, CALLS)
    good = Map("calls", key=(label("pid", "u32"),), value=(counter("count", "u64"),))
    wrong = Map("calls", key=(label("pid", "u64"),), value=(counter("count", "u64"),))

    def check(spec: Map) -> None:
        check_schema("c", [spec], {one.name: one for one in opened(source).maps()})

    apart(lambda: check(good))
    with pytest.raises(SchemaMismatch, match="declared u64, compiled u32"):
        apart(lambda: check(wrong))

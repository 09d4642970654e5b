"""Go programs: arguments and goroutines by uprobes, results by probes on returns, no uretprobes."""

from __future__ import annotations

import platform
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent_process import Agent, run
from bpfleet.errors import AttachError
from bpfleet.loader.executables import Executable
from bpfleet.loader.go_stack_check import after_stack_check
from bpfleet.loader.uprobes import places_in
from bpfleet.loader.x86_lengths import Undecodable, returns
from bpfleet.spec import Attach
from go_program import build, run_go
from two_way_programs import program_file

Start = Callable[..., Agent]

# Go's registers for arguments and results since 1.17: AX, BX, CX, DI, SI, R8 … on x86-64, R0 … on arm64.
CALLS = """
#include <asm/ptrace.h>
#include <bpfleet/bpfleet.h>

struct total {
	__u64 calls;
	__s64 numbers;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, char[16]);
	__type(value, struct total);
} by_name SEC(".maps");

__u64 returned = 0;
__s64 results = 0;
__u64 routines = 0;

static const struct total none;

/* func work(number int, name string): a string is its pointer and its length */
SEC("uprobe")
int on_work(struct pt_regs *ctx)
{
	char name[16] = {};
	struct total *mine;
	__s64 number = ctx->rax;
	__u64 length = ctx->rcx;

	if (length > 15)
		length = 15;
	bpf_probe_read_user(name, length, (void *)ctx->rbx);
	bpf_map_update_elem(&by_name, name, &none, BPF_NOEXIST);
	mine = bpf_map_lookup_elem(&by_name, name);
	if (!mine)
		return 0;
	__sync_fetch_and_add(&mine->calls, 1);
	__sync_fetch_and_add(&mine->numbers, number);
	return 0;
}

/* At a return instruction the result is in AX. */
SEC("uprobe")
int on_return(struct pt_regs *ctx)
{
	__sync_fetch_and_add(&returned, 1);
	__sync_fetch_and_add(&results, (__s64)ctx->rax);
	return 0;
}

SEC("uprobe")
int on_routine(struct pt_regs *ctx)
{
	__sync_fetch_and_add(&routines, 1);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
"""

WORDS = """
attach_all = true
[[attach]]
program = "on_work"
kind = "uprobe"
target = "{worker}"
symbol = "main.work"
[[attach]]
program = "on_return"
kind = "uprobe.returns"
target = "{worker}"
symbol = "main.work"
[[attach]]
program = "on_routine"
kind = "uprobe"
target = "{worker}"
symbol = "runtime.newproc1"
"""

only_x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="registers are named as on x86-64")


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("go"))


def objdump_returns(path: Path, function: str) -> list[int]:
    """Addresses of a function's return instructions, by binutils."""
    listed = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", f"--disassemble={function}", path],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    lines = [line.split("\t") for line in listed.splitlines() if "\t" in line]
    return [int(parts[0].strip(" :"), 16) for parts in lines if parts[1].strip() in ("ret", "repz ret")]


@only_x86
def test_arguments_results_and_goroutines_of_a_go_program_are_seen(
    start_agent: Start, tmp_path: Path, worker: Path
) -> None:
    program_file(tmp_path / "programs", "calls", CALLS, WORDS.format(worker=worker))
    agent = start_agent(f'[agent]\ninterval = "100ms"\nprograms = "{tmp_path}/programs"\n')

    def counts() -> dict[str, int]:
        (row,) = agent.next_snapshot("calls", ".bss")["rows"]
        return {name: row[name] for name in ("returned", "results", "routines")}

    counts()
    run_go(worker, 0, 1)
    idle = counts()
    total = run_go(worker, 10_000, 41)
    after = counts()
    rows = {
        row["key"]: (row["calls"], row["numbers"]) for row in agent.next_snapshot("calls", "by_name")["rows"]
    }
    assert rows == {"even": (5000, sum(range(0, 10_000, 2))), "odd": (5000, sum(range(1, 10_000, 2)))}
    # Each call returned once, by whichever of the return instructions, with the result that the program got.
    assert after["returned"] - idle["returned"] == 10_000
    assert after["results"] - idle["results"] == total
    # The runtime's own are the same in both runs.
    assert after["routines"] - idle["routines"] - idle["routines"] == 41 - 1
    (collector,) = agent.status()["collectors"]
    assert f"uprobe.returns/{worker}:main.work" in [one["attached"] for one in collector["programs"]]


@pytest.mark.parametrize("how", ["attach list", "section name", "bcc"])
def test_a_return_probe_on_a_go_program_is_refused_and_the_other_way_told(
    tmp_path: Path, worker: Path, how: str
) -> None:
    section = f"uretprobe/{worker}:main.work" if how == "section name" else "uretprobe"
    source = (
        f'#include <bpfleet/bpfleet.h>\n__u64 hits = 0;\nSEC("{section}")\nint probe(void *ctx)\n'
        '{ hits++; return 0; }\nchar LICENSE[] SEC("license") = "Dual BSD/GPL";\n'
    )
    words = f'[[attach]]\nprogram = "probe"\nkind = "uretprobe"\ntarget = "{worker}"\nsymbol = "main.work"\n'
    config = tmp_path / "bpfleet.toml"
    config.write_text(f'[agent]\nstate = "{tmp_path}/state"\n')
    if how == "bcc":
        with pytest.raises(AttachError) as refused:
            places_in(worker, Attach("probe", "uretprobe", str(worker), "main.work"))
        said = str(refused.value)
    else:
        made = program_file(tmp_path / "programs", "probe", source, words if how == "attach list" else "")
        done = run("once", str(made), "--after", "100ms", "--config", str(config))
        assert done.returncode == 1
        said = done.stderr
    for word in (
        "program 'probe'",
        "a uretprobe crashes a Go program",
        f"{worker}:main.work",
        "uprobe.returns",
    ):
        assert word in said
    assert "Traceback" not in said


def test_a_go_program_is_told_from_others(worker: Path) -> None:
    assert Executable(worker).made_by_go
    assert not Executable(Path("/bin/bash")).made_by_go


def test_a_name_with_stars_in_it_is_a_name(worker: Path) -> None:
    (found,) = Executable(worker).functions("sync.(*Mutex).lockSlow")
    assert found.name == "sync.(*Mutex).lockSlow"
    assert {one.name for one in Executable(worker).functions("main.*")} >= {
        "main.main",
        "main.work",
        "main.deep",
    }


@only_x86
def test_return_instructions_are_where_objdump_finds_them(worker: Path) -> None:
    """Every function of the C library, and of a Go program with the whole of its runtime."""
    for path in (Path("/lib/x86_64-linux-gnu/libc.so.6"), worker):
        listed = subprocess.run(
            ["objdump", "-d", "--no-show-raw-insn", "-j", ".text", path],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        theirs = set()
        for line in listed.splitlines():
            parts = line.split("\t")
            if len(parts) == 2 and parts[1].strip() in ("ret", "repz ret", "bnd ret"):
                theirs.add(int(parts[0].strip(" :"), 16))
        binary = Executable(path)
        (text,) = [one for one in binary._sections if one.name == ".text"]
        ours, inside = set(), set()
        for one in binary.functions("*"):
            address = one.offset - text.offset + text.address
            if one.size and text.offset <= one.offset < text.offset + text.size:
                ours |= {at - one.offset + address for at in binary.return_offsets(one)}
                inside |= {at for at in theirs if address <= at < address + one.size}
        assert len(ours) > 1000
        assert ours == inside, path


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("c3", [0]),
        ("f3c3", [0]),
        ("c20800", [0]),
        ("b8c3c3c3c3c3", [5]),  # the bytes of a number are no instruction
        ("48b8c3c3c3c3c3c3c3c3c3", [10]),
        ("66b8c3c3c3", [4]),
        ("c5f877c3", [3]),
        ("c4e37d19c1c3c3", [6]),
        ("62f17c48104001c3", [7]),
        ("f7c0c3c3c3c3c3", [6]),
        ("f7d0c3", [2]),
        ("488b0425c3c3c3c3c3", [8]),
        ("e8c3c3c3c3c3", [5]),
        ("0f84c3c3c3c3c3", [6]),
        ("eb00c3", [2]),
    ],
)
def test_no_byte_inside_an_instruction_is_taken_for_a_return(code: str, found: list[int]) -> None:
    assert returns(bytes.fromhex(code)) == found


@pytest.mark.parametrize("code", ["06", "b8c3c3", "48", "e8c3c3c3", "62", "c4"])
def test_code_that_is_not_understood_is_refused(code: str) -> None:
    with pytest.raises(Undecodable):
        returns(bytes.fromhex(code))


def test_the_instructions_of_a_known_function(worker: Path) -> None:
    binary = Executable(worker)
    (work,) = binary.functions("main.work")
    places: list[Any] = binary.return_offsets(work)
    addresses = objdump_returns(worker, "main.work")
    assert len(places) == len(addresses) >= 3
    assert [at - places[0] for at in places] == [at - addresses[0] for at in addresses]


@pytest.mark.parametrize(
    ("code", "behind"),
    [
        ("493b6610 766e 4883ec18", 6),
        ("493b6610 0f86d4000000 4883ec18", 10),
        ("4c8d6424d8 4d3b6610 7620 55", 11),
        ("4c8da42480feffff 4d3b6610 0f8600020000 55", 18),
        ("4989e4 4981ec00200000 0f8210000000 4d3b6610 0f8610000000 55", 26),
        ("64488b0c25f8ffffff 483b6110 7610 55", 15),
        ("64488b0c25f8ffffff 488d4424d0 483b4110 7610 55", 20),
        ("55 4889e5", 0),
        ("493b6610 c3", 0),
        ("", 0),
    ],
)
def test_the_look_at_the_stack_is_known_by_its_code(code: str, behind: int) -> None:
    assert after_stack_check(bytes.fromhex(code)) == behind


@only_x86
def test_the_body_begins_behind_the_look_at_the_stack(worker: Path) -> None:
    """By binutils: before it stands the jump to where runtime.morestack is called, in all functions that call
    that."""
    listed = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", "-j", ".text", worker],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    binary = Executable(worker)
    (text,) = [one for one in binary._sections if one.name == ".text"]
    seen = 0
    for block in listed.split("\n\n"):
        name = re.match(r"[0-9a-f]+ <(.+)>:", block)
        if not name:
            continue
        lines = [line.split("\t") for line in block.splitlines()[1:] if "\t" in line]
        looks = any(parts[1].startswith("call") and "<runtime.morestack" in parts[1] for parts in lines)
        found = [one for one in binary.functions("*") if one.name == name.group(1)] if looks else []
        if len(found) != 1 or name.group(1).startswith("runtime.morestack"):
            continue
        at = f"{binary.body_offset(found[0]) - text.offset + text.address:x}:"
        (index,) = [index for index, parts in enumerate(lines) if parts[0].strip() == at]
        assert index > 0, name.group(1)
        assert lines[index - 1][1].startswith("jbe"), name.group(1)
        seen += 1
    assert seen > 500

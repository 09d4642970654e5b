"""What is said when a bcc collector can't be brought into the kernel."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from apart import apart, source_file
from bcc_sources import CALLS, UPROBE, opened, refusal
from bpfleet.errors import AttachError, CompileError, LoadError, UnsupportedError, VerifierError
from bpfleet.spec import Attach

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def test_a_knob_that_the_source_does_not_have_is_refused(tmp_path: Path) -> None:
    error = refusal(source_file(tmp_path, CALLS), knobs={"LIMTI": 3})
    assert isinstance(error, CompileError)
    assert "'LIMTI'" in error.what


def test_a_knob_that_the_source_overrides_is_refused(tmp_path: Path) -> None:
    error = refusal(
        source_file(tmp_path, "#define LIMIT 3\nBPF_HASH(m, u32, u64, LIMIT);\n"), knobs={"LIMIT": 9}
    )
    assert isinstance(error, CompileError)
    assert "#ifndef LIMIT" in error.remedy


@pytest.mark.parametrize(
    "flag", ["-fplugin=/tmp/x.so", "-Xclang", "-Wl,x", "-include", "-o/tmp/x", "-I", "-D"]
)
def test_a_flag_that_makes_the_compiler_do_more_is_refused(tmp_path: Path, flag: str) -> None:
    error = refusal(source_file(tmp_path, CALLS), cflags=("-Wall", flag))
    assert isinstance(error, CompileError)
    assert repr(flag) in error.what


def test_a_compile_error_names_the_authors_own_line(tmp_path: Path) -> None:
    source = source_file(tmp_path, CALLS.replace("calls.increment(pid);", "calls.increment(pid)"))
    error = refusal(source)
    assert isinstance(error, CompileError)
    assert error.where == str(source)
    # bcc writes the tracepoint's struct above line 3, so clang itself speaks of a later line.
    assert error.log.splitlines()[0].startswith(f"{source}:7:")
    assert "calls.increment(pid)" in error.log
    assert "^" in error.log


def test_a_verifier_error_names_the_authors_own_line(tmp_path: Path) -> None:
    text = CALLS.replace("calls.increment(pid);", "u64 *seen = calls.lookup(&pid);\n\t*seen += 1;")
    source = source_file(tmp_path, text)
    error = refusal(source, lambda one: one.attach([]))
    assert isinstance(error, VerifierError)
    assert error.log.splitlines()[-1] == "R0 invalid mem access 'map_value_or_null'"
    assert "; *seen += 1; @ made.bpf.c:8" in error.log
    assert len(error.log.splitlines()) <= 12
    assert "NULL" in error.remedy


def test_llvm_calling_exit_is_outlived(tmp_path: Path) -> None:
    text = """\
struct wide { char b[600]; };
BPF_HASH(m, u32, struct wide);
int fill(void *ctx)
{
	u32 k = 1;
	struct wide w = {};

	m.update(&k, &w);
	return 0;
}
"""
    source = source_file(tmp_path, text)
    error = refusal(source)
    assert isinstance(error, CompileError)
    assert f"{source}:3:" in error.log
    assert "stack limit of 512 bytes" in error.log
    assert "BPF_PERCPU_ARRAY" in error.remedy


def test_a_misspelt_tracepoint_is_named_with_one_like_it(tmp_path: Path) -> None:
    text = CALLS.replace("sys_enter_sched_getscheduler", "sys_enter_sched_getschedule")
    error = refusal(source_file(tmp_path, text), lambda one: one.attach([]))
    assert isinstance(error, AttachError)
    assert "sys_enter_sched_getschedule" in error.what
    assert "'sys_enter_sched_getscheduler'" in error.remedy


def test_arguments_of_a_tracepoint_that_is_not_there_are_a_compile_error(tmp_path: Path) -> None:
    text = CALLS.replace("sys_enter_sched_getscheduler", "nothing").replace(
        "calls.incr", "pid = args->pid; calls.incr"
    )
    error = refusal(source_file(tmp_path, text))
    assert isinstance(error, CompileError)
    assert "/sys/kernel/tracing/events" in error.remedy


@pytest.mark.parametrize(
    ("place", "what", "remedy"),
    [
        (Attach("called", "uprobe", "c", "getaddrinof"), "has no function 'getaddrinof'", "'getaddrinfo'"),
        (Attach("called", "uprobe", "nothing_of_the_kind", "f"), "'nothing_of_the_kind'", "ldconfig"),
        (Attach("called", "uprobe", "/no/such/file", "f"), "/no/such/file", "path"),
        (Attach("caled", "uprobe", "c", "getpriority"), "no program 'caled'", "'called'"),
        (Attach("called", "tp_btf", "sched_switch"), "'tp_btf'", "raw_tp"),
        (Attach("called", "kprobe_multi", "f"), "'kprobe_multi'", "uprobe"),
        (Attach("called", "tracepoint", "sched:sched_swich"), "sched:sched_swich", "'sched_switch'"),
        (Attach("called", "tracepoint", "shed:sched_switch"), "group 'shed'", "'sched'"),
        (Attach("called", "raw_tp", "sched_swich"), "can't be attached", "'sched_switch'"),
    ],
    ids=lambda one: one.kind + " " + one.target + " " + one.symbol if isinstance(one, Attach) else "",
)
def test_a_place_that_is_not_there_is_named_with_one_like_it(
    tmp_path: Path, place: Attach, what: str, remedy: str
) -> None:
    text = UPROBE if "probe" in place.kind else "int called(void *ctx) { return 0; }\n"
    error = refusal(source_file(tmp_path, text), lambda one: one.attach([place]))
    assert isinstance(error, AttachError)
    assert place.program in error.what
    assert what in error.what
    assert remedy in error.remedy


def test_a_misspelt_symbol_names_the_library_and_the_place(tmp_path: Path) -> None:
    place = Attach("called", "uprobe", "c", "getaddrinof")
    error = refusal(source_file(tmp_path, UPROBE), lambda one: one.attach([place]))
    assert error.where == "uprobe/c:getaddrinof"
    assert "libc.so.6" in error.what


@pytest.mark.skipif(
    Path("/sys/bus/event_source/devices/kprobe").exists(), reason="this kernel has kprobes: nothing to refuse"
)
def test_a_kind_that_the_kernel_lacks_is_unsupported(tmp_path: Path) -> None:
    source = source_file(tmp_path, "int kprobe__do_exit(struct pt_regs *ctx) { return 0; }\n")
    error = refusal(source, lambda one: one.attach([]))
    assert isinstance(error, UnsupportedError)
    assert "tracepoint" in error.remedy


def test_a_map_that_the_kernel_refuses_is_named(tmp_path: Path) -> None:
    error = refusal(source_file(tmp_path, "BPF_HASH(m, u32, u64, 0);\n"))
    assert isinstance(error, LoadError)
    assert not isinstance(error, CompileError)
    assert "map 'm'" in error.what


def test_a_program_before_a_snapshot_is_refused(tmp_path: Path) -> None:
    error = refusal(source_file(tmp_path, CALLS), before_snapshot="settle")
    assert isinstance(error, UnsupportedError)
    assert "'settle'" in error.what


def test_without_bcc_the_package_to_install_is_named(tmp_path: Path) -> None:
    source = source_file(tmp_path, CALLS)

    def without() -> None:
        sys.modules["bcc"] = None  # type: ignore[assignment]
        opened(source)

    with pytest.raises(UnsupportedError, match="bcc can't be imported") as error:
        apart(without)
    assert "apt-get install python3-bpfcc" in error.value.remedy
    assert "--system-site-packages" in error.value.remedy

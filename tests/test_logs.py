"""Logs that clang 14, libbpf 1.1 and Linux 6.18 wrote, as they wrote them."""

from __future__ import annotations

import os
import re

import pytest

from bpfleet.loader.logs import Stderr, compiler_errors, telling_lines

LIBBPF = """\
libbpf: prog 'on_switch': BPF program load failed: Permission denied
libbpf: prog 'on_switch': -- BEGIN PROG LOAD LOG --
arg#0 reference type('UNKNOWN ') size cannot be determined: -22
0: R1=ctx() R10=fp0
; int on_switch(void *ctx) @ bad.bpf.c:5
0: (b7) r1 = 1                        ; R1=1
; __u32 key = 1; @ bad.bpf.c:7
1: (63) *(u32 *)(r10 -4) = r1         ; R1=1 R10=fp0 fp-8=mmmm????
2: (bf) r2 = r10                      ; R2=fp0 R10=fp0
;  @ bad.bpf.c:0
3: (07) r2 += -4                      ; R2=fp-4
; __u64 *hit = bpf_map_lookup_elem(&hits, &key); @ bad.bpf.c:8
4: (18) r1 = 0xffff88810a3f5800       ; R1=map_ptr(map=hits,ks=4,vs=8)
6: (85) call bpf_map_lookup_elem#1    ; R0=map_value_or_null(id=1,map=hits,ks=4,vs=8)
; *hit += 1; @ bad.bpf.c:10
7: (79) r1 = *(u64 *)(r0 +0)
R0 invalid mem access 'map_value_or_null'
processed 7 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0
-- END PROG LOAD LOG --
libbpf: prog 'on_switch': failed to load: -13
libbpf: failed to load object 'bad.bpf.o'
"""

BCC = """\
bpf: Failed to load program: Permission denied
; u64 *v = bpf_map_lookup_elem((void *)bpf_pseudo_fd(1, -1), &k); @ main.c:22
6: (85) call bpf_map_lookup_elem#1    ; R0=map_value_or_null(id=1,map=h,ks=4,vs=8)
; *v += 1; @ main.c:23
7: (79) r1 = *(u64 *)(r0 +0)
R0 invalid mem access 'map_value_or_null'
processed 7 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0

HINT: The 'map_value_or_null' error can happen if you dereference a pointer value from a map lookup without \
first checking if that pointer is NULL.

"""

CLANG = """\
badc.bpf.c:6:2: error: use of undeclared identifier 'unused_var'
        unused_var = 3;
        ^
badc.bpf.c:8:10: error: expected ';' after return statement
        return 0
                ^
                ;
badc.bpf.c:10:13: error: tentative definition has type 'struct nope' that is never completed
struct nope n;
            ^
badc.bpf.c:10:8: note: forward declaration of 'struct nope'
struct nope n;
       ^
3 errors generated.
"""


@pytest.mark.parametrize("log", [LIBBPF, BCC], ids=["libbpf", "bcc"])
def test_the_complaint_stands_last(log: str) -> None:
    assert telling_lines(log).splitlines()[-1] == "R0 invalid mem access 'map_value_or_null'"


def test_the_lines_around_the_kernels_log_are_left_out() -> None:
    told = telling_lines(LIBBPF, 40)
    assert "libbpf:" not in told
    assert "PROG LOAD LOG" not in told
    assert "processed" not in told


def test_the_source_line_before_the_complaint_is_told() -> None:
    assert "; *hit += 1; @ bad.bpf.c:10" in telling_lines(LIBBPF)


def test_a_source_line_too_far_back_is_fetched() -> None:
    steps = "".join(f"{n}: (07) r2 += -4\n" for n in range(100))
    told = telling_lines(f"; sum += x; @ a.c:3\n{steps}R2 is bad\nprocessed 100 insns\n", 5).splitlines()
    assert told[0] == "; sum += x; @ a.c:3"
    assert told[-1] == "R2 is bad"
    assert len(told) == 5


@pytest.mark.parametrize("most", [1, 2, 5, 12])
def test_no_more_lines_than_asked_for(most: int) -> None:
    assert len(telling_lines(LIBBPF, most).splitlines()) == most


def test_the_last_of_several_refusals_is_told() -> None:
    second = LIBBPF.replace("map_value_or_null", "scalar").replace("on_switch", "on_exec")
    assert telling_lines(LIBBPF + second).endswith("R0 invalid mem access 'scalar'")


def test_wide_register_states_are_cut() -> None:
    assert max(map(len, telling_lines(LIBBPF.replace("fp0", "fp0" * 100)).splitlines())) <= 120


def test_a_log_without_a_verifiers_end_gives_its_last_lines() -> None:
    log = "libbpf: elf: not an ELF file\nlibbpf: failed to open\n"
    assert telling_lines(log) == log.strip()


@pytest.mark.parametrize("extract", [telling_lines, compiler_errors])
def test_an_empty_log_tells_nothing(extract: object) -> None:
    assert callable(extract)
    assert extract("") == ""


def test_each_compiler_error_has_its_place_line_and_caret() -> None:
    assert compiler_errors(CLANG).splitlines() == [
        "badc.bpf.c:6:2: error: use of undeclared identifier 'unused_var'",
        "        unused_var = 3;",
        "        ^",
        "badc.bpf.c:8:10: error: expected ';' after return statement",
        "        return 0",
        "                ^",
        "badc.bpf.c:10:13: error: tentative definition has type 'struct nope' that is never completed",
        "struct nope n;",
        "            ^",
    ]


def test_many_compiler_errors_are_cut_at_twelve_lines() -> None:
    log = "".join(f"a.c:{n}:1: error: number {n}\nline {n}\n^\n" for n in range(50))
    told = compiler_errors(log).splitlines()
    assert len(told) == 12
    assert told[0] == "a.c:0:1: error: number 0"


def test_an_error_that_clang_repeats_is_told_once() -> None:
    assert len(re.findall("unused_var'", compiler_errors(CLANG + CLANG))) == 1


def test_warnings_are_left_out() -> None:
    warning = "a.c:1:1: warning: unused variable 'error' [-Wunused-variable]\nint error;\n    ^\n"
    assert "warning" not in compiler_errors(warning + CLANG)


def test_a_compilers_complaint_of_no_known_form_is_not_lost() -> None:
    assert compiler_errors("LLVM ran out of luck\n") == "LLVM ran out of luck"


def test_what_is_written_to_fd_2_is_kept_and_fd_2_comes_back() -> None:
    before = os.fstat(2).st_ino
    with Stderr() as log:
        os.write(2, b"from C\n")
    assert log.text == "from C\n"
    assert os.fstat(2).st_ino == before


def test_of_a_very_long_log_the_end_is_kept() -> None:
    with Stderr() as log:
        for _ in range(30):
            os.write(2, b"x" * 100_000)
        os.write(2, b"the end")
    assert log.text.endswith("the end")
    assert len(log.text) == 1 << 20

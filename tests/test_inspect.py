"""`bpfleet inspect`, and the declarations that it writes."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bpfleet.cli.inspect import command
from objects_fixture import Objects, bpftool_types


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Objects:
    return Objects(tmp_path_factory.mktemp("objects"))


def _run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(command, [str(one) for one in arguments], catch_exceptions=False)


def _output(*arguments: str | Path) -> str:
    result = _run(*arguments)
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout


def _lines(*arguments: str | Path) -> list[list[str]]:
    return [line.split() for line in _output(*arguments).splitlines()]


# What is shown


def test_programs_are_shown_with_where_they_go(objects: Objects) -> None:
    lines = _lines(objects("programs"))
    assert ["raw", "raw_tp", "sys_enter", "2"] in lines
    assert ["allocated", "uprobe", "/usr/lib/libc.so.6:malloc+0x10", "2"] in lines
    assert [
        "short_tracepoint",
        "tracepoint",
        "sched:sched_process_exec",
        "2",
        "not",
        "by",
        "default",
    ] in lines


def test_maps_are_shown_with_types_sizes_and_flags(objects: Objects) -> None:
    lines = _lines(objects("maps"))
    assert ["counts", "lru_percpu_hash", "20", "8", "1000", "no_common_lru"] in lines
    assert ["pinned", "array", "4", "20", "1", "rdonly_prog", "mmapable"] in lines
    assert ["events", "ringbuf", "0", "0", "4096"] in lines


def test_fields_of_keys_and_values_are_shown(objects: Objects) -> None:
    lines = _lines(objects("maps"))
    assert ["counts", "key", "4", "char[16]", "comm"] in lines
    assert ["counts", "value", "0", "u64", "-"] in lines


def test_knobs_are_shown_with_their_defaults(objects: Objects) -> None:
    lines = _lines(objects("maps"))
    assert [".rodata", "0", "u32", "threshold", "7", "knob"] in lines
    assert [".rodata", "8", "u32", "limits.high", "99", "knob"] in lines
    assert [".rodata", "12", "char[8]", "target", '"sshd"', "knob"] in lines
    assert [".rodata", "48", "f64", "ratio", "0.5"] in lines
    assert [".bss", "8", "u64", "failed"] in lines


def test_sections_license_and_relocations_are_shown(objects: Objects) -> None:
    text = _output(objects("programs"))
    assert text.startswith(f"{objects('programs')}: license GPL, BTF, 2 CO-RE relocations\n")
    assert ["kprobe/do_unlinkat+0x8", "16"] in _lines(objects("programs"))
    assert "for kernel 6.1.9" in _output(objects("maps"))


def test_an_object_without_btf_says_how_to_get_it(objects: Objects) -> None:
    path = objects.compile(
        '__attribute__((section("xdp"))) int drop(void *c) { return 1; }', "without", "-g0"
    )
    assert "no BTF (compile with -g)" in _output(path)
    assert ["drop", "xdp", "2"] in _lines(path)


def test_several_files_are_shown_one_after_the_other(objects: Objects) -> None:
    text = _output(objects("maps"), objects("programs"))
    assert text.index(str(objects("maps"))) < text.index(str(objects("programs")))


def test_json_is_one_object_per_file_and_line(objects: Objects) -> None:
    text = _output("--format", "json", objects("maps"), objects("programs"))
    maps, programs = (json.loads(line) for line in text.splitlines())
    assert maps["file"] == str(objects("maps"))
    (counts,) = (one for one in maps["maps"] if one["map"] == "counts")
    assert (counts["type"], counts["max_entries"], counts["flags"]) == ("lru_percpu_hash", 1000, 2)
    assert counts["key"][1] == {"field": "comm", "offset": 4, "type": "char[16]", "meaning": "label"}
    (rodata,) = (one for one in maps["globals"] if one["section"] == ".rodata")
    values = {one["field"]: (one["value"], one["knob"]) for one in rodata["variables"]}
    assert values["steps"] == ([-1, 0, 1], True)
    assert values["table"] == ("00" * 16, True)
    assert values["zero"] == (0, False)
    (probe,) = (one for one in programs["programs"] if one["program"] == "allocated")
    assert (probe["kind"], probe["target"], probe["symbol"], probe["offset"]) == (
        *("uprobe", "/usr/lib/libc.so.6"),
        *("malloc", 16),
    )


def test_json_has_the_sizes_that_bpftool_reads(objects: Objects) -> None:
    made = json.loads(_output("--format", "json", objects("fields")))
    sizes = {one["name"]: one["size"] for one in bpftool_types(objects("fields")) if one["kind"] == "STRUCT"}
    values = {one["map"]: one["value_size"] for one in made["maps"]}
    for name in ("numbers", "arrays", "nested", "bits", "kernels", "packed", "twice"):
        assert values[f"of_{name}"] == sizes[name]


def test_numbers_that_json_lacks_are_written_in_words(objects: Objects) -> None:
    source = "const volatile double odd[3] = { 1.0 / 0.0, -1.0 / 0.0, 0.5 };\n"
    source += '__attribute__((section("xdp"))) int x(void *c) { return (long)&odd[1] & 1; }'
    text = _output("--format", "json", objects.compile(source, "infinite", "-Wno-everything"))
    made = json.loads(text, parse_constant=pytest.fail)
    assert made["globals"][0]["variables"][0]["value"] == ["inf", "-inf", 0.5]


# Errors


def _refused(*arguments: str | Path) -> str:
    result = _run(*arguments)
    assert result.exit_code == 2
    assert "Traceback" not in result.stderr
    return result.stderr


def test_a_missing_file_is_told_on_stderr(tmp_path: Path) -> None:
    text = _refused(tmp_path / "gone.bpf.o")
    assert text.startswith("bpfleet: the object can't be read: No such file or directory\n")
    assert str(tmp_path / "gone.bpf.o") in text


def test_a_source_file_is_told_apart_from_an_object() -> None:
    text = _refused(__file__)
    assert "this is not an ELF file" in text
    assert "clang -g -O2 -target bpf" in text


def test_a_cut_off_object_is_told(objects: Objects, tmp_path: Path) -> None:
    cut = tmp_path / "cut.bpf.o"
    cut.write_bytes(objects("maps").read_bytes()[:-100])
    assert "beyond its end" in _refused(cut)


def test_the_other_files_are_shown_beside_a_bad_one(objects: Objects, tmp_path: Path) -> None:
    result = _run(tmp_path / "gone.bpf.o", objects("maps"))
    assert result.exit_code == 2
    assert "lru_percpu_hash" in result.stdout
    assert "gone.bpf.o" in result.stderr


def test_no_file_is_wrong_usage() -> None:
    assert "Missing argument" in _refused()


# On a terminal and in a pipe


def _program(path: Path) -> list[str]:
    code = "from bpfleet.cli.inspect import command; command()"
    return [sys.executable, "-c", code, str(path)]


def _on_a_terminal(arguments: Sequence[str]) -> str:
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "120"}
    environment.pop("NO_COLOR", None)
    with subprocess.Popen(arguments, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        said = b""
        try:
            while part := os.read(ours, 4096):
                said += part
        except OSError:  # how Linux says that the other end of a terminal is closed
            pass
        os.close(ours)
    assert process.returncode == 0
    return said.decode()


def test_a_terminal_gets_tables_and_a_pipe_plain_lines(objects: Objects) -> None:
    shown = _on_a_terminal(_program(objects("maps")))
    assert "\x1b[1m" in shown
    assert "─" in shown
    assert "lru_percpu_hash" in shown
    piped = subprocess.run(_program(objects("maps")), capture_output=True, text=True, check=True).stdout
    assert "\x1b" not in piped
    assert "─" not in piped
    assert "lru_percpu_hash" in piped


def test_names_are_not_taken_for_markup(objects: Objects) -> None:
    path = objects.compile('__attribute__((section("[red]x[/red]"))) int x(void *c) { return 1; }', "markup")
    assert "[red]x[/red]" in _on_a_terminal(_program(path))


def test_a_pipe_does_not_load_rich(objects: Objects) -> None:
    code = "import sys; from bpfleet.cli.inspect import command; command(standalone_mode=False); "
    code += "sys.exit('rich' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, str(objects("maps"))], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_schema_is_not_json(objects: Objects) -> None:
    assert "can't be combined" in _refused("--as-schema", "--format", "json", objects("maps"))

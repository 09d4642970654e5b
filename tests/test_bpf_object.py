"""Object files as a whole, beside libbpf; and what a section's name says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpfleet import bpf_object, elf
from bpfleet.attach_points import AttachPoint
from bpfleet.bpf_object import BpfObject
from bpfleet.errors import ObjectError
from bpfleet.layout import Layout, declared, differences
from bpfleet.schema import Map, counter, label
from bpfleet.schema_source import map_of
from objects_fixture import (
    Objects,
    libbpf_maps,
    libbpf_programs,
    output_of,
    raises_nothing_else,
)


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Objects:
    return Objects(tmp_path_factory.mktemp("objects"))


@pytest.fixture(scope="module")
def maps(objects: Objects) -> BpfObject:
    return bpf_object.read(objects("maps"))


@pytest.fixture(scope="module")
def programs(objects: Objects) -> BpfObject:
    return bpf_object.read(objects("programs"))


# Programs


@pytest.mark.parametrize("name", ["fields", "maps", "programs"])
def test_programs_are_those_that_libbpf_opens(objects: Objects, name: str) -> None:
    theirs = [
        (one.name, one.section.removeprefix("?"), one.instructions, one.autoload)
        for one in libbpf_programs(objects(name))
    ]
    ours = [
        (one.name, one.section.removeprefix("?"), one.instructions, one.attach.autoload)
        for one in bpf_object.read(objects(name)).programs
    ]
    assert sorted(ours) == sorted(theirs)


def test_a_function_that_programs_call_is_no_program(programs: BpfObject) -> None:
    assert {"shared", "shared_too"}.isdisjoint(one.name for one in programs.programs)
    assert any(one.name == ".text" and one.size for one in programs.sections)


def test_where_each_program_goes_is_read_from_its_section(programs: BpfObject) -> None:
    said = {one.name: one.attach for one in programs.programs}
    assert said["on_switch"] == said["on_switch_too"] == AttachPoint("tp_btf", "sched_switch")
    assert said["long_tracepoint"] == AttachPoint("tracepoint", "syscalls:sys_enter_openat")
    assert said["short_tracepoint"] == AttachPoint("tracepoint", "sched:sched_process_exec", autoload=False)
    assert said["raw_long"] == AttachPoint("raw_tp", "sys_exit")
    assert said["function"] == AttachPoint("kprobe", "do_unlinkat", offset=8)
    assert said["left"] == AttachPoint("fexit", "vfs_read", sleepable=True)
    assert said["allocated"] == AttachPoint("uprobe", "/usr/lib/libc.so.6", "malloc", 16)
    assert said["anywhere"] == AttachPoint("uprobe")
    assert said["probe"] == AttachPoint("usdt", "libc.so.6", "libc:setjmp")
    assert said["cgrouped"] == AttachPoint("cgroup_skb/ingress")
    assert said["settled"] == AttachPoint("syscall", sleepable=True)
    assert said["unheard_of"] == AttachPoint("custom", "my_own/place")


# Maps and their layouts


def test_layouts_of_a_map_are_as_large_as_the_map(objects: Objects, maps: BpfObject) -> None:
    for one in libbpf_maps(objects("maps")):
        for layout, size in zip(maps.layouts_of(one.name), (one.key_size, one.value_size), strict=True):
            if layout is not None and not one.name.startswith("."):
                assert layout.size == size


def test_a_map_without_types_has_no_layouts(maps: BpfObject) -> None:
    assert maps.layouts_of("events") == (None, None)
    assert maps.layouts_of("stacks") == (None, None)


def test_a_map_of_maps_has_a_layout_for_its_key_only(maps: BpfObject) -> None:
    key, value = maps.layouts_of("outer")
    assert key is not None
    assert (key.size, value) == (4, None)


def test_a_queue_has_an_empty_key(maps: BpfObject) -> None:
    key, value = maps.layouts_of("queue")
    assert key == Layout(0, ())
    assert value is not None
    assert [leaf.name for leaf in value.leaves] == ["pid", "comm"]


def test_a_map_that_is_not_there_has_no_layouts(maps: BpfObject) -> None:
    assert maps.layouts_of("nowhere") == (None, None)


def test_a_declared_map_is_compared_with_the_compiled_one(maps: BpfObject) -> None:
    right = Map("counts", (label("pid", "u32"), label("comm", "char[16]")), (counter("count"),))
    wrong = Map("counts", (label("pid", "u64"), label("comm", "char[12]")), right.value)
    key, value = maps.layouts_of("counts")
    assert key is not None
    assert value is not None
    assert differences(declared(right.key), key, "key") == []
    assert differences(declared(right.value), value, "value") == []
    found = differences(declared(wrong.key), key, "key")
    assert "key field 'pid': declared u64, compiled u32" in found


# Global variables


def test_sections_of_globals_are_as_large_as_libbpf_makes_them(objects: Objects, maps: BpfObject) -> None:
    theirs = {one.name: one.value_size for one in libbpf_maps(objects("maps")) if one.name.startswith(".")}
    assert {name: layout.size for name, layout in maps.globals.items()} == theirs
    assert set(theirs) == {".bss", ".data", ".data.own", ".rodata"}


def test_initial_values_are_those_in_the_source(maps: BpfObject) -> None:
    values = {
        leaf.name: maps.initial_value(section, leaf)
        for section, layout in maps.globals.items()
        for leaf in layout.leaves
    }
    assert values == {
        "threshold": 7,
        "limits.low": 1,
        "limits.high": 99,
        "target": "sshd",
        "steps": [-1, 0, 1],
        "table": bytes(16),
        "verbose": True,
        "zero": 0,
        "ratio": 0.5,
        "next_id": 1000,
        "shift": -3,
        "own.low": 3,
        "own.high": 4,
        **dict.fromkeys(("failed", "last_comm", "walk.seen", "walk.range.low", "walk.range.high")),
        **dict.fromkeys(("by_cpu", "called.calls")),
    }


def test_sections_hold_what_libbpf_would_put_into_the_kernel(objects: Objects, maps: BpfObject) -> None:
    theirs = {one.name: one.initial for one in libbpf_maps(objects("maps")) if one.name.startswith(".")}
    for name in (".data", ".data.own", ".rodata"):
        (section,) = (one for one in maps.sections if one.name == name)
        assert section.data == theirs[name]


def test_variables_are_at_their_symbols(objects: Objects, maps: BpfObject) -> None:
    made = elf.read(objects("maps").read_bytes(), "maps")
    symbols = {
        (one.section_name, one.name): (one.value, one.size) for one in made.symbols if one.type == "object"
    }
    for section, layout in maps.globals.items():
        for leaf in layout.leaves:
            if "." not in leaf.name:
                assert symbols[section, leaf.name] == (leaf.offset, leaf.size)


def test_knobs_are_the_volatile_constants(maps: BpfObject) -> None:
    assert maps.knobs == {"threshold", "limits", "target", "steps", "table", "verbose"}


def test_a_section_of_globals_has_an_empty_key(maps: BpfObject) -> None:
    assert maps.layouts_of(".data") == (Layout(0, ()), maps.globals[".data"])


def test_a_linked_object_has_its_variables_at_the_same_places(objects: Objects, tmp_path: Path) -> None:
    linked = tmp_path / "linked.bpf.o"
    output_of("bpftool", "gen", "object", str(linked), str(objects("maps")))
    assert bpf_object.read(linked).globals == bpf_object.read(objects("maps")).globals


def test_two_objects_linked_into_one_keep_their_static_variables_apart(
    objects: Objects, tmp_path: Path
) -> None:
    source = (
        "static volatile int twin = %d;\n"
        '__attribute__((section("syscall"))) int %s(void *c) { return twin++; }\n'
    )
    parts = [objects.compile(source % (number, name), name) for number, name in ((11, "one"), (22, "two"))]
    linked = tmp_path / "linked.bpf.o"
    output_of("bpftool", "gen", "object", str(linked), *map(str, parts))
    made = bpf_object.read(linked)
    assert [(leaf.offset, made.initial_value(".data", leaf)) for leaf in made.globals[".data"].leaves] == [
        (0, 11),
        (4, 22),
    ]


def test_an_object_without_debugging_information_still_tells_its_types(
    objects: Objects, tmp_path: Path
) -> None:
    stripped = tmp_path / "stripped.bpf.o"
    output_of("llvm-strip", "-g", str(objects("maps")), "-o", str(stripped))
    assert bpf_object.read(stripped).globals == bpf_object.read(objects("maps")).globals


def test_a_variable_whose_symbol_is_gone_is_named(objects: Objects, tmp_path: Path) -> None:
    stripped = tmp_path / "stripped.bpf.o"
    output_of("llvm-objcopy", "--strip-symbol=shift", str(objects("maps")), str(stripped))
    with pytest.raises(ObjectError, match="it has no symbol") as caught:
        bpf_object.read(stripped)
    assert "variable 'shift' of section .data" in caught.value.where
    assert "llvm-strip -g" in caught.value.remedy


# The object itself


def test_license_and_version_are_read(maps: BpfObject) -> None:
    assert (maps.license, maps.kernel_version) == ("Dual BSD/GPL", 0x060109)


def test_an_object_without_btf_has_programs_only(objects: Objects) -> None:
    source = 'int x; __attribute__((section("xdp"))) int drop(void *c) { return x; }'
    made = bpf_object.read(objects.compile(source, "without", "-g0"))
    assert [one.name for one in made.programs] == ["drop"]
    assert (made.has_btf, made.maps, made.globals, made.license) == (False, {}, {}, "")
    assert made.layouts_of(".bss") == (None, None)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ObjectError, match="No such file") as caught:
        bpf_object.read(tmp_path / "gone.bpf.o")
    assert caught.value.where == str(tmp_path / "gone.bpf.o")


def test_a_directory_and_a_pipe_are_refused_unread(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(ObjectError, match="this is not a file"):
            bpf_object.read(path)


def test_an_enormous_file_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "large.bpf.o"
    with path.open("wb") as file:
        file.truncate(bpf_object.MAX_BYTES + 1)
    with pytest.raises(ObjectError, match="too large"):
        bpf_object.read(path)


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_a_damaged_object_raises_nothing_but_our_error(objects: Objects, data: st.DataObject) -> None:
    whole = objects(data.draw(st.sampled_from(["fields", "maps", "programs"]))).read_bytes()
    sections = [
        one for one in elf.read(whole, "").sections if one.name in (".BTF", ".BTF.ext", ".symtab", ".strtab")
    ]
    place = st.one_of(*(st.integers(one.offset, one.offset + one.size - 1) for one in sections))
    damaged = bytearray(whole)
    for at, value in data.draw(st.lists(st.tuples(place, st.integers(0, 255)), min_size=1, max_size=10)):
        damaged[at] = value

    def use() -> None:
        made = bpf_object.parse(bytes(damaged), "damaged")
        for name in made.maps:
            key, value = made.layouts_of(name)
            if key is not None and value is not None:
                map_of(name, key, value)
        for section, layout in made.globals.items():
            for leaf in layout.leaves:
                made.initial_value(section, leaf)

    raises_nothing_else(use, "damaged")

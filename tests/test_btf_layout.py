"""Layouts derived from BTF: of what clang makes, and of types written by hand."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from bpfleet import elf
from bpfleet.btf import Kind
from bpfleet.layout import Layout
from bpfleet.schema import Meaning
from objects_fixture import (
    BtfText,
    Objects,
    by_hand,
    types_of,
)


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Objects:
    return Objects(tmp_path_factory.mktemp("objects"))


def _value(objects: Objects, name: str, part: str = "value") -> Layout:
    types = types_of(objects("fields"))
    one = next(one for one in types.maps() if one.name == name)
    type_id = one.value_type if part == "value" else one.key_type
    assert type_id is not None
    return types.layout(type_id, part=part)


def _leaves(layout: Layout) -> list[tuple[int, str, str]]:
    return [(leaf.offset, leaf.ctype, leaf.name) for leaf in layout.leaves]


def test_numbers_of_every_width_and_sign(objects: Objects) -> None:
    layout = _value(objects, "of_numbers")
    assert layout.size == 96
    assert _leaves(layout) == [
        (0, "u8", "a"),
        (2, "u16", "b"),
        (4, "u32", "c"),
        (8, "u64", "d"),
        (16, "s8", "e"),
        (18, "s16", "f"),
        (20, "s32", "g"),
        (24, "s64", "h"),
        (32, "bool", "flag"),
        (33, "char", "letter"),
        (34, "s8", "small"),
        (35, "u8", "octet"),
        (36, "f32", "single_precision"),
        (40, "f64", "double_precision"),
        (48, "bytes[16]", "wide"),
        (64, "u64", "pointer"),
        (72, "u32", "plain"),
        (76, "s32", "below_zero"),
        (80, "u8", "tiny"),
    ]


def test_arrays_of_any_rank(objects: Objects) -> None:
    assert _leaves(_value(objects, "of_arrays")) == [
        (0, "char[16]", "text"),
        (16, "u8[6]", "address"),
        (24, "u64[32]", "slots"),
        (280, "s32[6]", "grid"),
        (304, "bytes[32]", "lines"),
        (336, "bool[3]", "flags"),
        (344, "u64[2]", "pointers"),
        (360, "u32[2]", "states"),
        (368, "bytes[12]", "structs"),
        (380, "bytes[32]", "unions"),
    ]


def test_structs_and_unions_inside_structs(objects: Objects) -> None:
    assert _leaves(_value(objects, "of_nested")) == [
        (0, "u16", "peer.port"),
        (2, "u8", "peer.family"),
        (4, "u32", "anonymous_a"),
        (8, "u8", "deep"),
        (16, "u16", "connection.local.port"),
        (18, "u8", "connection.local.family"),
        (24, "u64", "connection.since"),
        (32, "bytes[16]", "address"),
        (48, "bytes[8]", "number_or_raw"),
        (56, "u32", "only"),
        (60, "bytes[4]", "lo_or_both"),
        (64, "bytes[2]", "choice.left_or_right"),
        (66, "u16", "choice.single"),
    ]


def test_bitfields_become_the_bytes_that_cover_them(objects: Objects) -> None:
    assert _leaves(_value(objects, "of_bits")) == [
        (0, "u8", "before"),
        (1, "bytes[4]", "low_to_alone"),
        (5, "u8", "after"),
        (6, "u16", "whole"),
        (8, "bytes[5]", "wide"),
    ]


def test_what_only_the_kernel_uses_is_padding(objects: Objects) -> None:
    layout = _value(objects, "of_kernels")
    assert [leaf.name for leaf in layout.columns()] == ["padlock", "count"]
    assert [(leaf.offset, leaf.size) for leaf in layout.leaves] == [
        (0, 4),
        (4, 4),
        (8, 16),
        (24, 8),
        (32, 4),
        (36, 1),
        (38, 2),
        (40, 8),
    ]


def test_packed_structs_have_no_holes(objects: Objects) -> None:
    layout = _value(objects, "of_packed")
    assert layout.size == 14
    assert _leaves(layout) == [
        (0, "u8", "a"),
        (1, "u64", "b"),
        (9, "u8", "inside.c"),
        (10, "u32", "inside.d"),
    ]


def test_a_type_that_is_no_struct_is_one_leaf_without_a_name(objects: Objects) -> None:
    assert _leaves(_value(objects, "of_kernels", "key")) == [(0, "u64", "")]
    assert _leaves(_value(objects, "of_arrays", "key")) == [(0, "char[16]", "")]
    assert _leaves(_value(objects, "of_pairs", "key")) == [(0, "bytes[8]", "")]


def test_a_union_as_a_value_is_named_by_its_members(objects: Objects) -> None:
    assert _leaves(_value(objects, "of_pairs")) == [(0, "bytes[8]", "a_or_b")]


def test_every_leaf_of_a_key_is_a_label(objects: Objects) -> None:
    assert {leaf.meaning for leaf in _value(objects, "of_nested", "key").leaves} == {Meaning.LABEL}


def test_numbers_of_a_value_are_gauges_and_text_is_a_label(objects: Objects) -> None:
    meanings = {leaf.name: leaf.meaning for leaf in _value(objects, "of_arrays").leaves}
    assert meanings["slots"] is meanings["address"] is meanings["flags"] is Meaning.GAUGE
    assert meanings["text"] is meanings["lines"] is meanings["pointers"] is Meaning.LABEL


def test_offsets_are_those_that_the_compiler_tells_itself(objects: Objects) -> None:
    """`offsetof` and `sizeof`, computed by clang into .rodata, beside what its BTF gives us."""
    struct_name, fields = (
        "struct nested",
        ["peer.family", "anonymous_a", "deep", "connection.since", "address"],
    )
    source = (Path(__file__).with_name("objects") / "fields.bpf.c").read_text()
    source = source.replace("[0];", "[1];").replace("tail[]", "tail[1]")
    cells = ", ".join(f"__builtin_offsetof({struct_name}, {field})" for field in fields)
    source += f"\nconst volatile __u32 answers[] = {{ sizeof({struct_name}), {cells} }};\n"
    made = elf.read(objects.compile(source, "answers").read_bytes(), "answers")
    section = made.section(".rodata")
    assert section is not None
    size, *offsets = struct.unpack("<6I", section.data[:24])
    layout = _value(objects, "of_nested")
    ours = {leaf.name: leaf.offset for leaf in layout.leaves}
    assert (layout.size, [ours[field] for field in fields]) == (size, offsets)


def test_enums_of_every_size_and_sign() -> None:
    build = BtfText()
    build.add(Kind.ENUM, "flagged", 4, build.name("A"), 1, length=1, flag=True)
    build.add(Kind.ENUM, "unflagged", 4, build.name("B"), 1, length=1)
    build.add(Kind.ENUM, "old", 4, build.name("C"), -1, length=1)
    build.add(Kind.ENUM, "short", 2, build.name("D"), 1, length=1)
    build.add(Kind.ENUM64, "wide", 8, build.name("E"), 0, 1, length=1)
    build.add(Kind.ENUM64, "wide_unsigned", 8, build.name("G"), 0, 1 << 31, length=1)
    build.add(Kind.ENUM64, "wide_signed", 8, build.name("F"), -1, -1, length=1, flag=True)
    types = by_hand(build)
    ctypes = [types.layout(number, part="value").leaves[0].ctype for number in range(1, 8)]
    assert ctypes == ["s32", "u32", "s32", "u16", "u64", "u64", "s64"]
    values = [one.value for number in (5, 6, 7) for one in types.enumerators(types.type(number))]
    assert values == [1 << 32, 1 << 63, -1]


def test_floats_without_a_number_of_ours_are_bytes() -> None:
    build = BtfText()
    for size in (2, 4, 8, 16):
        build.add(Kind.FLOAT, "float", size)
    types = by_hand(build)
    ctypes = [types.layout(number, part="value").leaves[0].ctype for number in range(1, 5)]
    assert ctypes == ["bytes[2]", "f32", "f64", "bytes[16]"]


def test_bitfields_of_old_compilers_have_their_width_in_the_type() -> None:
    build = BtfText()
    build.add(Kind.INT, "three bits", 4, 3)
    build.add(Kind.INT, "unsigned int", 4, 32)
    member = [build.name("a"), 1, 0, build.name("b"), 1, 3, build.name("c"), 2, 32]
    build.add(Kind.STRUCT, "old", 8, *member, length=3)
    assert _leaves(by_hand(build).layout(3, part="value")) == [(0, "bytes[1]", "a_to_b"), (4, "u32", "c")]


def test_a_bitfield_between_others_leaves_no_byte_out() -> None:
    build = BtfText()
    build.add(Kind.INT, "unsigned int", 4, 32)
    members = [build.name("a"), 1, 7 | 4 << 24, build.name("b"), 1, 16 | 1 << 24]
    build.add(Kind.STRUCT, "odd", 4, *members, length=2, flag=True)
    assert _leaves(by_hand(build).layout(2, part="value")) == [(0, "bytes[3]", "a_to_b")]


@pytest.mark.parametrize(("tag", "shown"), [("kptr", False), ("kptr_untrusted", False), ("user", True)])
def test_a_pointer_that_only_the_kernel_follows_is_padding(tag: str, shown: bool) -> None:
    build = BtfText()
    build.add(Kind.INT, "unsigned int", 4, 32)
    build.add(Kind.STRUCT, "task_struct", 0)
    build.add(Kind.TYPE_TAG, tag, 2)
    build.add(Kind.PTR, "", 3)
    members = [
        word
        for name, type, bit in (("task", 4, 0), ("number", 1, 64))
        for word in (build.name(name), type, bit)
    ]
    build.add(Kind.STRUCT, "value", 16, *members, length=2)
    layout = by_hand(build).layout(5, part="value")
    assert [leaf.name for leaf in layout.columns()] == (["task", "number"] if shown else ["number"])
    assert [leaf.offset for leaf in layout.leaves if leaf.name == "number"] == [8]

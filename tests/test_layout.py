"""Declared layouts follow C's rules, and differences are told field by field."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from bpfleet.errors import ConfigError
from bpfleet.layout import Layout, Leaf, declared, differences
from bpfleet.schema import Field, Map, Meaning, counter, gauge, histogram, label, padding, struct

CTYPES = {
    "u8": "unsigned char",
    "u16": "unsigned short",
    "u32": "unsigned int",
    "u64": "unsigned long long",
    "s8": "signed char",
    "s16": "short",
    "s32": "int",
    "s64": "long long",
    "f32": "float",
    "f64": "double",
    "bool": "_Bool",
    "char": "char",
    "bytes": "unsigned char",
}

STRUCTS: dict[str, list[Field]] = {
    "mixed": [label("a", "u8"), label("b", "u64"), label("c", "u16"), label("d", "u32"), label("e", "u8")],
    "text": [label("comm", "char[16]"), label("pid", "u32"), label("tail", "char[3]")],
    "histogram": [label("x", "u32"), histogram("slots", 27), gauge("y", "s16")],
    "nested": [
        label("first", "u8"),
        struct(
            "io", counter("n", "u32"), struct("deep", gauge("z", "u8"), counter("w", "u64")), gauge("v", "u8")
        ),
        gauge("last", "s8"),
    ],
    "floats": [gauge("a", "f32"), gauge("b", "f64"), gauge("c", "bool")],
    "arrays": [gauge("a", "u16[3]"), gauge("b", "s32[2]"), label("c", "bytes[5]")],
    "padded": [label("a", "u32"), padding(4), counter("b", "u64")],
}


def c_source(fields: list[Field], packed: bool) -> str:
    def members(of: list[Field] | tuple[Field, ...]) -> str:
        lines = []
        for field in of:
            if field.base == "struct":
                attribute = " __attribute__((packed))" if packed else ""
                lines.append(f"struct {{ {members(field.fields)} }}{attribute} {field.name};")
            else:
                lines.append(f"{CTYPES[field.base]} {field.name}{f'[{field.count}]' if field.count else ''};")
        return " ".join(lines)

    return f"struct s {{ {members(fields)} }}" + (" __attribute__((packed));" if packed else ";")


@pytest.mark.parametrize("packed", [False, True], ids=["natural", "packed"])
@pytest.mark.parametrize("name", STRUCTS)
def test_a_declared_struct_lies_as_the_c_compiler_lays_it(name: str, packed: bool, tmp_path: Path) -> None:
    layout = declared(STRUCTS[name], packed=packed)
    prints = "".join(
        f'printf("{leaf.name} %zu\\n", offsetof(struct s, {leaf.name}));' for leaf in layout.leaves
    )
    source = tmp_path / "layout.c"
    source.write_text(
        "#include <stddef.h>\n#include <stdio.h>\n"
        + c_source(STRUCTS[name], packed)
        + f'\nint main(void) {{ {prints} printf("size %zu\\n", sizeof(struct s)); }}\n'
    )
    subprocess.run(["gcc", "-o", tmp_path / "layout", source], check=True)
    printed = subprocess.run([tmp_path / "layout"], capture_output=True, text=True, check=True).stdout
    expected = {name: int(offset) for name, offset in (line.split() for line in printed.splitlines())}
    assert layout.size == expected.pop("size")
    assert {leaf.name: leaf.offset for leaf in layout.leaves} == expected


def test_padding_is_checked_and_is_no_column() -> None:
    layout = declared(STRUCTS["padded"])
    assert [leaf.name for leaf in layout.columns()] == ["a", "b"]
    assert layout.size == 16


WANT = declared([label("pid", "u32"), label("comm", "char[16]"), counter("count")])


@pytest.mark.parametrize(
    ("got", "expected"),
    [
        (WANT, []),
        (
            declared(
                [label("pid", "s32"), *STRUCTS["text"][:0], label("comm", "char[16]"), counter("count")]
            ),
            ["'pid': declared u32, compiled s32"],
        ),
        (
            declared([label("pid", "u32"), label("comm", "char[8]"), counter("count")]),
            [
                "size: declared 32 bytes, compiled 24",
                "'comm': declared char[16], compiled char[8]",
                "'count': declared at offset 24, compiled at 16",
            ],
        ),
        (
            declared([label("pid", "u32"), label("comm", "char[16]")]),
            ["size", "'count': declared u64, not in the object"],
        ),
        (
            declared([label("pid", "u32"), label("comm", "char[16]"), counter("count"), counter("extra")]),
            ["size", "'extra': in the object as u64, not declared"],
        ),
        (
            Layout(32, (*WANT.leaves[:2], Leaf("", 24, "u64"))),
            ["'count': declared u64, not in the object", "in the object as u64, not declared"],
        ),
    ],
)
def test_each_difference_names_the_field_and_both_sides(got: Layout, expected: list[str]) -> None:
    found = differences(WANT, got, "key")
    assert len(found) == len(expected), found
    for sentence, words in zip(found, expected, strict=True):
        assert words in sentence


def test_a_key_that_is_no_struct_may_have_any_name() -> None:
    assert differences(declared([label("pid", "u32")]), Layout(4, (Leaf("", 0, "u32"),)), "key") == []
    assert differences(declared([label("pid", "u32")]), Layout(4, (Leaf("", 0, "s32"),)), "key")


def test_text_bytes_and_small_integers_are_told_apart_by_the_declaration_only() -> None:
    got = Layout(16, (Leaf("a", 0, "u8", 16),))
    for ctype in ("char[16]", "bytes[16]", "u8[16]"):
        assert differences(declared([label("a", ctype)]), got, "key") == []


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: label("a-b", "u32"), "C identifier"),
        (lambda: label("a", "int"), "u8…u64"),
        (lambda: label("a", "u32[0]"), "no elements"),
        (lambda: Field("a", "struct", Meaning.LABEL), "no members"),
        (lambda: Field("a", "u64", Meaning.HISTOGRAM), "u64[32]"),
        (lambda: Map("m", key=(label("a", "u32"),), value=(counter("a"),)), "two fields named 'a'"),
        (lambda: Map("m", key=(label("a", "u32"),), value=()), "no value fields"),
    ],
)
def test_a_schema_that_makes_no_sense_is_refused_where_it_is_written(make: object, words: str) -> None:
    assert callable(make)
    with pytest.raises(ConfigError) as caught:
        make()
    assert re.search(re.escape(words), str(caught.value))

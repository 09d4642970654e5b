"""Layouts from bcc's descriptions, held against what this machine's C compiler says of the same structs."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from apart import apart, source_file
from bpfleet.layout import Layout, Leaf
from bpfleet.loader.bcc import open_bcc
from bpfleet.loader.bcc_tables import layout_of
from bpfleet.protocol import Load
from bpfleet.schema import Meaning

needs_bcc = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("cc"), reason="needs root and a C compiler"
)

TYPEDEFS = """
typedef unsigned char u8; typedef unsigned short u16; typedef unsigned int u32;
typedef unsigned long long u64; typedef signed char s8; typedef short s16; typedef int s32;
typedef long long s64; typedef int pid_t;
"""


def compiled(tmp_path: Path, text: str) -> dict[str, tuple[Layout | None, Layout | None]]:
    """Key and value layout of each map of a bcc source."""
    source = source_file(tmp_path, text)

    def run() -> dict[str, tuple[Layout | None, Layout | None]]:
        opened = open_bcc(Load(collector="c", kind="bcc", source=str(source)), text)
        return {one.name: (one.key, one.value) for one in opened.maps()}

    return apart(run)


def offsets(tmp_path: Path, types: str, struct: str, members: list[str]) -> dict[str, tuple[int, int]]:
    """Offset and size of each member by the machine's own C compiler; "" is the whole struct."""
    prints = "".join(
        f'printf("{name} %zu %zu\\n", offsetof({struct}, {name}), sizeof((({struct} *)0)->{name}));\n'
        for name in members
    )
    (tmp_path / "offsets.c").write_text(
        f"#include <stddef.h>\n#include <stdio.h>\n#include <stdbool.h>\n{TYPEDEFS}\n{types}\n"
        f'int main(void) {{ {prints} printf("- 0 %zu\\n", sizeof({struct})); return 0; }}\n'
    )
    subprocess.run(["cc", "-w", "-o", tmp_path / "offsets", tmp_path / "offsets.c"], check=True)
    said = subprocess.run([tmp_path / "offsets"], capture_output=True, text=True, check=True).stdout
    rows = (line.split(" ") for line in said.splitlines())
    return {name.strip("-"): (int(offset), int(size)) for name, offset, size in rows}


def places(layout: Layout) -> dict[str, tuple[int, int]]:
    """Offset and size of each column of a layout; "" is the whole."""
    return {leaf.name: (leaf.offset, leaf.size) for leaf in layout.columns()} | {"": (0, layout.size)}


TYPES = """
enum color { RED, BLUE };
struct inner { u16 a; int b; };
struct tight { u8 a; u64 b; } __attribute__((packed));
union address { u32 v4; u8 v6[16]; };
struct value {
	u64 n; s64 sn; u16 w; bool ok; enum color color; struct inner in; union address address; void *pointer;
	char c; u64 slots[8]; struct tight tight; struct inner pairs[2]; __int128 big; struct { int x; int y; };
	union { u32 q; u16 r[2]; }; struct { int z; } named; double d; float f; long l; short h; pid_t pid;
	unsigned long ul; signed char sc; u8 mac[6]; char comm[16]; bool flags[3]; s16 t[3];
};
"""
CTYPES = {
    "n": "u64", "sn": "s64", "w": "u16", "ok": "bool", "color": "u32", "in.a": "u16", "in.b": "s32",
    "address": "bytes[16]", "pointer": "u64", "c": "char", "slots": "u64[8]", "tight.a": "u8",
    "tight.b": "u64", "pairs": "bytes[16]", "big": "bytes[16]", "x": "s32", "y": "s32", "q": "bytes[4]",
    "named.z": "s32", "d": "f64", "f": "f32", "l": "s64", "h": "s16", "pid": "s32", "ul": "u64", "sc": "s8",
    "mac": "u8[6]", "comm": "char[16]", "flags": "bool[3]", "t": "s16[3]",
}  # fmt: skip


@needs_bcc
def test_every_c_type_lies_where_the_c_compiler_puts_it(tmp_path: Path) -> None:
    _, value = compiled(tmp_path, TYPES + "BPF_HASH(m, u32, struct value);")["m"]
    assert value is not None
    assert places(value) == offsets(tmp_path, TYPES, "struct value", list(CTYPES))


@needs_bcc
def test_every_c_type_has_its_base(tmp_path: Path) -> None:
    _, value = compiled(tmp_path, TYPES + "BPF_HASH(m, u32, struct value);")["m"]
    assert value is not None
    assert {leaf.name: leaf.ctype for leaf in value.columns()} == CTYPES


@needs_bcc
def test_random_structs_lie_where_the_c_compiler_puts_them(tmp_path: Path) -> None:
    chance = random.Random(20)
    structs = [_random_struct(chance, number) for number in range(60)]
    text = "".join(struct for struct, _, _ in structs)
    maps = "".join(f"BPF_ARRAY(m{number}, struct s{number}, 1);\n" for number in range(60))
    layouts = compiled(tmp_path, text + maps)
    doubtful = []
    for number, (_, members, packed_inside) in enumerate(structs):
        _, value = layouts[f"m{number}"]
        if value is None:
            doubtful.append(packed_inside)
            continue
        assert places(value) == offsets(tmp_path, text, f"struct s{number}", members), f"struct s{number}"
    # Only a packed struct inside another can leave a doubt, and few of them do.
    assert all(doubtful)
    assert len(doubtful) < 15


def _random_struct(chance: random.Random, number: int) -> tuple[str, list[str], bool]:
    scalars = ["u8", "u16", "u32", "u64", "s8", "s16", "s32", "s64", "bool", "char", "float", "double"]
    members, lines, packed_inside = [], [], False
    for at in range(chance.randrange(1, 7)):
        kind = chance.choice(["scalar", "scalar", "array", "struct", "union"])
        name, base = f"m{at}", chance.choice(scalars)
        if kind == "scalar":
            lines.append(f"{base} {name};")
            members.append(name)
        elif kind == "array":
            lines.append(f"{base} {name}[{chance.randrange(1, 9)}];")
            members.append(name)
        elif kind == "union":
            lines.append(
                f"union {{ {base} a; {chance.choice(scalars)} b[{chance.randrange(1, 9)}]; }} {name};"
            )
            members.append(name)
        else:
            packed = chance.random() < 0.3
            packed_inside |= packed
            inner = [(f"i{n}", chance.choice(scalars)) for n in range(chance.randrange(1, 4))]
            body = " ".join(f"{ctype} {inside};" for inside, ctype in inner)
            lines.append(f"struct {{ {body} }} {'__attribute__((packed)) ' if packed else ''}{name};")
            members.extend(f"{name}.{inside}" for inside, _ in inner)
    packed = chance.random() < 0.2
    end = "} __attribute__((packed));" if packed else "};"
    return f"struct s{number} {{ {' '.join(lines)} {end}\n", members, packed_inside


@needs_bcc
def test_what_bcc_describes_wrongly_is_no_layout(tmp_path: Path) -> None:
    layouts = compiled(
        tmp_path,
        "typedef u8 mac_t[6];\n"
        "struct grid { u32 cells[2][3]; };\nBPF_HASH(two_dimensions, u32, struct grid);\n"
        "struct hidden { mac_t mac; u16 port; };\nBPF_HASH(typedef_array, u32, struct hidden);\n"
        "struct bits { u32 a : 3; u32 b : 5; };\nBPF_HASH(bit_fields, u32, struct bits);\n",
    )
    key = Layout(4, (Leaf("", 0, "u32"),))
    for name in ("two_dimensions", "typedef_array", "bit_fields"):
        assert layouts[name] == (key, None), name


@needs_bcc
def test_every_kind_of_table_is_told(tmp_path: Path) -> None:
    layouts = compiled(
        tmp_path,
        "struct pair { u16 a; int b; };\n"
        "BPF_QUEUE(queue, struct pair, 10);\nBPF_RINGBUF_OUTPUT(ring, 8);\nBPF_PERF_OUTPUT(events);\n"
        "BPF_STACK_TRACE(stacks, 64);\nBPF_PERCPU_HASH(per_cpu, u64, s64, 16);\nBPF_HISTOGRAM(histogram);\n"
        'BPF_PROG_ARRAY(calls, 4);\nBPF_TABLE("lru_hash", struct pair, u64, lru, 100);\n',
    )
    assert set(layouts) == {"queue", "ring", "events", "stacks", "per_cpu", "histogram", "calls", "lru"}
    assert layouts["queue"][0] == Layout(0, ())
    assert layouts["ring"] == (None, None)
    assert layouts["per_cpu"] == (Layout(8, (Leaf("", 0, "u64"),)), Layout(8, (Leaf("", 0, "s64"),)))
    assert layouts["lru"][0] == Layout(
        8, (Leaf("a", 0, "u16"), Leaf("__pad_1", 2, "bytes", 2, Meaning.PADDING), Leaf("b", 4, "s32"))
    )


@pytest.mark.parametrize(
    "description",
    ["", "{", '"quantum"', "[]", '["s"]', '["s", [["a"]]]', '["s", [["a", "int", [1, 2]]]]', "7", "null"],
)
def test_a_description_that_makes_no_sense_is_no_layout(description: str) -> None:
    assert layout_of(description, 4) is None


def test_a_nested_struct_that_may_or_may_not_be_packed_is_decided_by_the_size() -> None:
    def outer(kind: str) -> str:
        inner = '["i", [["b", "unsigned int"]], "struct_packed"]'
        return f'["o", [["a", "unsigned char"], ["in", {inner}]], "{kind}"]'

    aligned, packed = layout_of(outer("struct"), 8), layout_of(outer("struct"), 5)
    assert aligned is not None
    assert packed is not None
    assert [leaf.offset for leaf in aligned.leaves] == [0, 4]
    assert [leaf.offset for leaf in packed.leaves] == [0, 1]


def test_a_nested_struct_that_both_readings_fit_is_no_layout() -> None:
    # Packed or not, the whole is 16 bytes: only the place of `in` differs, so neither is taken.
    text = (
        '["o", [["a", "unsigned char"], ["in", ["i", [["b", "unsigned short"]], "struct_packed"]], '
        '["c", "unsigned long long"]], "struct"]'
    )
    assert layout_of(text, 16) is None

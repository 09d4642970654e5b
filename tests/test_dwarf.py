"""Structs that only an object's debugging information has: laid out as BTF would have them, or not at all."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest

from bpfleet import bpf_object
from bpfleet.bpf_object import BpfObject
from bpfleet.dwarf_structs import Debug
from bpfleet.layout import Layout
from bpfleet.loader.event_types import event_types
from objects_fixture import Objects

SOURCE = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

enum kind { FIRST, LAST = -1 };
enum color { RED, BLUE };
typedef unsigned short small;
union either { int number; float real; };

struct hidden { char text[8]; };
struct path { struct path *next; void (*call)(struct hidden *); };

struct seen_event {
    int pid;
    unsigned char flag : 3, other : 5;
    _Bool yes;
    const volatile small port;
    enum kind kind;
    enum color color;
    char comm[16];
    signed char level;
    unsigned long long counts[4];
    int matrix[2][3];
    char names[2][8];
    struct { unsigned long long low, high; } pair;
    union { int only; };
    union either either;
    struct path *path;
    double share;
    struct { int x; } places[2];
    unsigned int many[];
};

struct {
    __uint(type, BPF_MAP_TYPE_RINGBUF);
    __uint(max_entries, 4096);
} hidden SEC(".maps");

KEPT

SEC("tp_btf/sched_process_exec")
int on_exec(void *ctx)
{
    struct path path = {};
    struct seen_event *event = bpf_ringbuf_reserve(&hidden, sizeof(*event), 0);

    if (!event)
        return 0;
    bpf_probe_read_kernel(&path, sizeof(path), ctx);
    event->pid = path.next != 0;
    bpf_ringbuf_submit(event, 0);
    return 0;
}

char LICENSE[] SEC("license") = "GPL";
"""


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Objects:
    return Objects(tmp_path_factory.mktemp("dwarf"))


@pytest.fixture(scope="module")
def by_btf(objects: Objects) -> Layout:
    kept = SOURCE.replace("KEPT", "const struct seen_event *unused;")
    path = objects.compile(kept, "kept")
    subprocess.run(["llvm-strip", "-g", path], check=True)
    layout = bpf_object.read(path).struct_layout("seen_event")
    assert layout is not None
    return layout


def compiled(objects: Objects, version: int) -> Path:
    return objects.compile(SOURCE.replace("KEPT", ""), f"version_{version}", f"-gdwarf-{version}")


def debug_sections(made: BpfObject) -> dict[str, bytes]:
    return {one.name: one.data for one in made.sections if one.name.startswith(".debug_")}


@pytest.mark.parametrize("version", [4, 5])
def test_a_struct_that_btf_leaves_out_is_laid_out_as_btf_would(
    objects: Objects, by_btf: Layout, version: int
) -> None:
    path = compiled(objects, version)
    made = bpf_object.read(path)
    assert made.struct_layout("seen_event") == by_btf
    guess = event_types(made, "hidden")
    assert guess is not None
    assert guess.guess("hidden").how == "struct seen_event, which the programs have in variables"
    subprocess.run(["llvm-strip", "-g", path], check=True)
    assert bpf_object.read(path).struct_layout("seen_event") is None


@pytest.mark.parametrize("version", [4, 5])
def test_a_struct_that_no_program_holds_is_not_taken(objects: Objects, version: int) -> None:
    """`hidden` is the map's name, and what a pointer inside another struct would be given."""
    made = bpf_object.read(compiled(objects, version))
    assert made.struct_layout("hidden") is None
    assert {"path", "seen_event"} <= set(made.local_structs())


@pytest.mark.parametrize("version", [4, 5])
def test_damaged_debugging_information_tells_nothing_or_something_and_raises_nothing(
    objects: Objects, version: int
) -> None:
    sections = debug_sections(bpf_object.read(compiled(objects, version)))
    random.seed(version)
    for _ in range(400):
        name = random.choice([".debug_info", ".debug_abbrev", ".debug_str", ".debug_str_offsets"])
        data = bytearray(sections.get(name, b"\0"))
        for _ in range(random.randint(1, 4)):
            data[random.randrange(len(data))] = random.randrange(256)
        cut = random.randrange(len(data)) if random.random() < 0.2 else len(data)
        Debug(sections | {name: bytes(data[:cut])}, "damaged").struct_layout("seen_event")


def test_an_object_without_debugging_information_has_no_such_structs() -> None:
    assert Debug({}, "none").names() == ()
    assert Debug({".debug_info": b""}, "none").struct_layout("seen_event") is None

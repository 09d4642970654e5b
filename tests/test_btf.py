"""The BTF parser, beside bpftool, the compiler and the running kernel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpfleet import btf, elf
from bpfleet.btf import Btf, Kind
from bpfleet.btf_types import Type
from bpfleet.schema import Meaning
from objects_fixture import (
    VMLINUX,
    Objects,
    bpftool_types,
    raises_nothing_else,
    types_of,
)

needs_kernel_btf = pytest.mark.skipif(not VMLINUX.exists(), reason="this kernel has no BTF")


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Objects:
    return Objects(tmp_path_factory.mktemp("objects"))


@pytest.fixture(scope="module")
def kernel() -> Btf:
    return btf.parse(VMLINUX.read_bytes(), "vmlinux")


def _as_bpftool(types: Btf, one: Type) -> dict[str, Any]:
    """A type in the words of `bpftool -j btf dump … format raw`."""
    said: dict[str, Any] = {"id": one.id, "kind": one.kind.name, "name": one.name or "(anon)"}
    match one.kind:
        case Kind.INT:
            integer = types.integer(one)
            encoding = "SIGNED" if integer.signed else "BOOL" if integer.boolean else "(none)"
            said |= {"size": one.size, "bits_offset": integer.bit_offset, "nr_bits": integer.bits}
            said |= {"encoding": encoding}
        case Kind.ARRAY:
            element, length = types.array(one)
            said |= {"type_id": element, "nr_elems": length}
        case Kind.STRUCT | Kind.UNION:
            members = []
            for member in types.members(one):
                told = {
                    "name": member.name or "(anon)",
                    "type_id": member.type,
                    "bits_offset": member.bit_offset,
                }
                members.append(told | ({"bitfield_size": member.bits} if member.bits else {}))
            said |= {"size": one.size, "vlen": one.length, "members": members}
        case Kind.ENUM | Kind.ENUM64:
            values = [{"name": value.name, "val": value.value} for value in types.enumerators(one)]
            said |= {"size": one.size, "encoding": "SIGNED" if one.flag else "UNSIGNED", "vlen": one.length}
            said |= {"values": values}
        case Kind.DATASEC:
            variables = [
                {"type_id": v.type, "offset": v.offset, "size": v.size} for v in types.variables(one)
            ]
            said |= {"size": one.size, "vlen": one.length, "vars": variables}
        case Kind.FLOAT:
            said |= {"size": one.size}
        case (
            Kind.TYPEDEF
            | Kind.CONST
            | Kind.VOLATILE
            | Kind.RESTRICT
            | Kind.PTR
            | Kind.TYPE_TAG
            | Kind.DECL_TAG
        ):
            said |= {"type_id": one.ref}
        case Kind.FUNC:
            said |= {"type_id": one.ref}
        case Kind.VAR:
            said |= {"type_id": one.ref, "linkage": ("static", "global", "extern")[types.linkage(one)]}
    return said


def _comparable(theirs: dict[str, Any], ours: dict[str, Any]) -> dict[str, Any]:
    """bpftool's words about what we read: an enum's values at our width, and no more keys than ours."""
    theirs = {key: theirs.get(key) for key in ours}
    if "values" in ours:
        mask = (1 << 64) - 1 if ours["kind"] == "ENUM64" else (1 << 32) - 1
        theirs["values"] = [{"name": one["name"], "val": one["val"] & mask} for one in theirs["values"]]
        ours["values"] = [{"name": one["name"], "val": one["val"] & mask} for one in ours["values"]]
    return theirs


def _differing(types: Btf, path: Path) -> list[tuple[Any, Any]]:
    listed = bpftool_types(path)
    assert len(listed) == len(types) - 1
    pairs = [(_as_bpftool(types, types.type(one["id"])), one) for one in listed]
    return [(ours, theirs) for ours, theirs in pairs if _comparable(theirs, ours) != ours]


@pytest.mark.parametrize("name", ["fields", "maps", "programs"])
def test_every_type_of_an_object_is_as_bpftool_reads_it(objects: Objects, name: str) -> None:
    assert _differing(types_of(objects(name)), objects(name)) == []


@needs_kernel_btf
def test_every_type_of_the_running_kernel_is_as_bpftool_reads_it(kernel: Btf) -> None:
    assert _differing(kernel, VMLINUX)[:3] == []


@needs_kernel_btf
def test_task_struct_has_pid_where_bpftool_says(kernel: Btf) -> None:
    found = kernel.find("task_struct", Kind.STRUCT)
    assert found is not None
    theirs = next(
        one for one in bpftool_types(VMLINUX) if one["kind"] == "STRUCT" and one["name"] == "task_struct"
    )
    (offset,) = (one["bits_offset"] for one in theirs["members"] if one["name"] == "pid")
    assert [one.bit_offset for one in kernel.members(found) if one.name == "pid"] == [offset]
    leaves = {leaf.name: leaf for leaf in kernel.layout(found.id, part="value").leaves}
    assert (leaves["pid"].offset, leaves["pid"].ctype) == (offset // 8, "s32")
    assert (leaves["comm"].ctype, leaves["comm"].meaning) == ("char[16]", Meaning.LABEL)


@needs_kernel_btf
def test_a_layout_of_every_kernel_struct_stays_inside_it(kernel: Btf) -> None:
    for one in kernel.of_kind(Kind.STRUCT):
        layout = kernel.layout(one.id, part="value")
        assert layout.size == one.size
        end = 0
        for leaf in layout.leaves:
            assert leaf.offset >= end, (one.name, leaf)
            end = leaf.offset + leaf.size
        assert end <= one.size


@pytest.mark.parametrize("reads", [0, 1, 3])
def test_core_relocations_are_as_many_as_fields_read(objects: Objects, reads: int) -> None:
    members = " ".join(f"int m{number};" for number in range(reads + 1))
    source = (
        f"struct task {{ {members} }} __attribute__((preserve_access_index));\n"
        '__attribute__((section("kprobe/a"))) int first(struct task *t) { return BODY; }\n'
        '__attribute__((section("kprobe/b"))) int second(struct task *t) { return BODY; }\n'
    ).replace("BODY", " + ".join(f"t->m{number}" for number in range(reads)) or "0")
    path = objects.compile(source, f"relocated{reads}")
    section = elf.read(path.read_bytes(), path.name).section(".BTF.ext")
    assert section is not None
    assert btf.core_relocations(section.data, path.name) == 2 * reads


@settings(deadline=None)
@given(st.data())
def test_damaged_relocations_raise_nothing_but_our_error(objects: Objects, data: st.DataObject) -> None:
    section = elf.read(objects("programs").read_bytes(), "programs").section(".BTF.ext")
    assert section is not None
    damaged = bytearray(section.data)
    place = st.integers(0, 40) | st.integers(0, len(damaged) - 1)
    for at, value in data.draw(st.lists(st.tuples(place, st.integers(0, 255)), min_size=1, max_size=8)):
        damaged[at] = value
    raises_nothing_else(lambda: btf.core_relocations(bytes(damaged), "damaged"), "damaged")

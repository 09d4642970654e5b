"""Map definitions read from BTF, beside libbpf and the running kernel."""

from __future__ import annotations

import pytest

from bpfleet import btf
from bpfleet.btf import Btf, Kind
from bpfleet.btf_maps import MAP_TYPES
from bpfleet.cli.inspect_content import MAP_FLAGS
from bpfleet.errors import ObjectError
from objects_fixture import (
    VMLINUX,
    BtfText,
    Objects,
    by_hand,
    libbpf_maps,
    types_of,
)

needs_kernel_btf = pytest.mark.skipif(not VMLINUX.exists(), reason="this kernel has no BTF")


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Objects:
    return Objects(tmp_path_factory.mktemp("objects"))


@pytest.fixture(scope="module")
def kernel() -> Btf:
    return btf.parse(VMLINUX.read_bytes(), "vmlinux")


def test_maps_are_those_that_libbpf_opens(objects: Objects) -> None:
    theirs = {one.name: one for one in libbpf_maps(objects("maps")) if not one.name.startswith(".")}
    ours = {one.name: one for one in types_of(objects("maps")).maps()}
    assert set(ours) == set(theirs)
    for name, one in ours.items():
        other = theirs[name]
        told = (one.type, one.key_size, one.value_size, one.max_entries, one.flags, one.extra)
        assert told == (
            *(other.type, other.key_size, other.value_size),
            *(other.max_entries, other.flags, other.extra),
        )
    assert len(ours) == 9


def test_a_map_of_maps_tells_its_inner_maps(objects: Objects) -> None:
    outer = next(one for one in types_of(objects("maps")).maps() if one.name == "outer")
    assert (outer.type_name, outer.value_type) == ("array_of_maps", None)
    assert outer.inner is not None
    assert (outer.inner.type_name, outer.inner.max_entries, outer.inner.value_size) == ("hash", 32, 8)


def test_a_map_tells_whether_it_is_pinned(objects: Objects) -> None:
    pinned = {one.name: one.pinned for one in types_of(objects("maps")).maps()}
    assert [name for name, is_pinned in pinned.items() if is_pinned] == ["pinned"]


def test_a_map_type_of_a_newer_kernel_keeps_its_number(objects: Objects) -> None:
    source = (
        "#include <linux/bpf.h>\n#include <bpf/bpf_helpers.h>\n"
        'struct { __uint(type, 4711); __uint(max_entries, 1); } newer SEC(".maps");\n'
    )
    (one,) = types_of(objects.compile(source, "newer")).maps()
    assert (one.type, one.type_name) == (4711, "type 4711")


@pytest.mark.parametrize(
    ("definition", "what"),
    [
        ("int wrong", "it is defined by void, not by a struct"),
        ("struct { int type; } wrong", "its type is int int"),
        ("struct { int *type; } wrong", "its type is a pointer to int int"),
        ("struct { int key; } wrong", "its key is int int"),
        ("struct { int values; } wrong", "its values are int int"),
    ],
)
def test_a_map_defined_in_another_way_is_named_with_the_remedy(
    objects: Objects, definition: str, what: str
) -> None:
    source = f'{definition} __attribute__((section(".maps"))) = {{ 0 }};'
    types = types_of(objects.compile(source, "wrong"))
    with pytest.raises(ObjectError, match=what) as caught:
        types.maps()
    assert "map 'wrong'" in caught.value.where
    assert "__uint" in caught.value.remedy


def test_a_map_whose_key_type_is_incomplete_is_told(objects: Objects) -> None:
    source = (
        "#include <linux/bpf.h>\n#include <bpf/bpf_helpers.h>\nstruct later;\n"
        'struct { __uint(type, 1); __type(key, struct later); __type(value, int); } m SEC(".maps");\n'
    )
    with pytest.raises(ObjectError, match=r"fwd later \(type \d+\) has no size"):
        types_of(objects.compile(source, "incomplete")).maps()


@needs_kernel_btf
def test_map_types_and_flags_have_the_names_of_the_running_kernel(kernel: Btf) -> None:
    names = kernel.find("bpf_map_type", Kind.ENUM)
    assert names is not None
    theirs: dict[int, str] = {}
    for one in kernel.enumerators(names):
        # Several names for one number: the first is the old one that was deprecated.
        name = one.name.removeprefix("BPF_MAP_TYPE_").lower().removesuffix("_deprecated")
        theirs.setdefault(one.value, name)
    known = {number: name for number, name in theirs.items() if number < len(MAP_TYPES) and name[:2] != "__"}
    assert known == {number: MAP_TYPES[number] for number in known}
    assert len(known) > 30
    by_name = {one.name: one.value for enum in kernel.of_kind(Kind.ENUM) for one in kernel.enumerators(enum)}
    told = {bit: name for bit, name in enumerate(MAP_FLAGS) if f"BPF_F_{name.upper()}" in by_name}
    assert all(by_name[f"BPF_F_{name.upper()}"] == 1 << bit for bit, name in told.items())
    assert len(told) > 12


def test_numbers_wider_than_an_array_come_as_an_enum() -> None:
    """`__ulong(map_extra, 1ull << 44)` of libbpf 1.5, as a newer clang writes it."""
    build = BtfText()
    build.add(Kind.ENUM64, "", 8, build.name("__unique_value0"), 0, 1 << 12, length=1)
    build.add(Kind.STRUCT, "", 8, build.name("map_extra"), 1, 0, length=1)
    build.add(Kind.VAR, "arena", 2, 1)
    build.add(Kind.DATASEC, ".maps", 0, 3, 0, 8, length=1)
    (one,) = by_hand(build).maps()
    assert (one.name, one.extra) == ("arena", 1 << 44)

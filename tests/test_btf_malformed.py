"""Malformed BTF: each is told by our error, and none keeps us busy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpfleet import btf
from bpfleet.btf import Btf, Kind
from bpfleet.btf_types import FOLLOWING, Type
from bpfleet.errors import ObjectError
from objects_fixture import (
    BtfText,
    Objects,
    btf_section,
    by_hand,
    raises_nothing_else,
)


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Objects:
    return Objects(tmp_path_factory.mktemp("objects"))


def _recursive(*, kind: int) -> BtfText:
    build = BtfText()
    if kind == Kind.ARRAY:
        build.add(Kind.ARRAY, "", 0, 1, 1, 1)
    elif kind == Kind.TYPEDEF:
        build.add(Kind.TYPEDEF, "again", 1)
    else:
        build.add(kind, "again", 4, build.name("me"), 1, 0, length=1)
    return build


@pytest.mark.parametrize("kind", [Kind.ARRAY, Kind.TYPEDEF, Kind.STRUCT, Kind.UNION])
def test_a_type_that_contains_itself_ends(kind: int) -> None:
    with pytest.raises(ObjectError):
        by_hand(_recursive(kind=kind)).layout(1, part="value")


def test_a_tree_that_grows_without_end_is_refused() -> None:
    build = BtfText()
    build.add(Kind.INT, "char", 1, 8)
    for level in range(2, 12):
        members = [word for _ in range(100) for word in (build.name("m"), level - 1, 0)]
        build.add(Kind.STRUCT, f"level{level}", 1, *members, length=100)
    with pytest.raises(ObjectError, match="more than 16384 members"):
        by_hand(build).layout(11, part="value")


def test_a_member_beyond_its_struct_is_named() -> None:
    build = BtfText()
    build.add(Kind.INT, "int", 4, 32 | 1 << 24)
    build.add(Kind.STRUCT, "short", 4, build.name("last"), 1, 8, length=1)
    with pytest.raises(ObjectError, match="'last' goes beyond the 4 bytes of struct short"):
        by_hand(build).layout(2, part="value")


def test_an_array_larger_than_any_is_refused() -> None:
    build = BtfText()
    build.add(Kind.ARRAY, "", 0, 2, 2, 0xFFFFFFFF)
    build.add(Kind.ARRAY, "", 0, 3, 3, 0xFFFFFFFF)
    build.add(Kind.INT, "int", 4, 32)
    with pytest.raises(ObjectError, match="too large"):
        by_hand(build).size_of(1)


def test_a_reference_to_no_type_is_told() -> None:
    build = BtfText()
    build.add(Kind.TYPEDEF, "lost", 99)
    with pytest.raises(ObjectError, match="there is no type 99"):
        by_hand(build).resolve(1)


def test_a_kind_of_a_newer_format_is_told() -> None:
    build = BtfText()
    build.add(20, "newer", 0)
    with pytest.raises(ObjectError, match="its kind 20 is unknown") as caught:
        by_hand(build)
    assert caught.value.where == "by hand: BTF type 1"


def test_a_name_beyond_the_strings_is_told() -> None:
    build = BtfText()
    build.add(Kind.INT, "int", 4, 32)
    build.strings = b"\0"
    with pytest.raises(ObjectError, match="beyond the strings"):
        by_hand(build).type(1)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda data: b"\xeb\x9f" + data[2:], "big-endian"),
        (lambda data: b"\0\0" + data[2:], "not BTF's"),
        (lambda data: data[:2] + b"\x09" + data[3:], "version 9"),
        (lambda data: data[:4] + b"\x08" + data[5:], "too short"),
        (lambda data: data[:-1] + b"x", "neither begin nor end"),
        (lambda data: data[:10], "beyond its end"),
        (lambda data: b"", "beyond its end"),
    ],
)
def test_a_damaged_header_is_told(objects: Objects, change: Any, what: str) -> None:
    with pytest.raises(ObjectError, match=what):
        btf.parse(change(btf_section(objects("maps"))), "damaged")


def _use(types: Btf) -> None:
    """Ask for everything; each thing may be damaged."""

    def ask(action: Callable[[], object]) -> None:
        raises_nothing_else(action, "damaged")

    ask(types.maps)
    ask(types.data_sections)
    for number in range(len(types)):
        ask(partial(types.layout, number, part="key"))
        ask(partial(types.type, number))
    for section in list(_sections_of(types)):
        ask(partial(types.globals, section, 4096, Everywhere()))
        ask(partial(types.knobs, section))


def _sections_of(types: Btf) -> Iterator[Type]:
    for number in range(len(types)):
        with suppress(ObjectError):
            if types.type(number).kind is Kind.DATASEC:
                yield types.type(number)


class Everywhere(dict[str, int]):
    """Says of every variable that it is at offset 8."""

    def get(self, key: str, default: object = None) -> int:
        return 8


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_damaged_types_raise_nothing_but_our_error(objects: Objects, data: st.DataObject) -> None:
    whole = btf_section(objects(data.draw(st.sampled_from(["fields", "maps"]))))
    place, byte = st.integers(0, len(whole) - 1), st.integers(0, 255)
    damaged = bytearray(whole)
    for at, value in data.draw(st.lists(st.tuples(place, byte), min_size=1, max_size=20)):
        damaged[at] = value
    if raises_nothing_else(lambda: btf.parse(bytes(damaged), "damaged"), "damaged"):
        _use(btf.parse(bytes(damaged), "damaged"))


_WORDS = st.lists(st.integers(0, 30) | st.integers(0, 0xFFFFFFFF), max_size=4)
_TYPE = st.tuples(st.integers(1, 19), st.integers(0, 40), st.booleans(), st.integers(0, 3), _WORDS)


@settings(deadline=None, max_examples=300)
@given(st.lists(_TYPE, max_size=30))
def test_types_that_refer_to_each_other_at_random_raise_nothing_but_our_error(made: list[Any]) -> None:
    build = BtfText()
    for kind, last, flag, length, words in made:
        fixed, each = FOLLOWING[kind]
        wanted = (fixed + each * length) // 4
        build.add(kind, "x", last, *(words * wanted + [1] * wanted)[:wanted], length=length, flag=flag)
    _use(btf.parse(build.data(), "damaged"))

"""Declarations written from an object's types: `bpfleet inspect --as-schema`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

import bpfleet
from bpfleet import bpf_object
from bpfleet.cli.inspect import command
from bpfleet.layout import Layout, Leaf, declared, differences
from bpfleet.loader.compile import core_sources
from bpfleet.loader.event_types import event_types
from bpfleet.loader.seen_layouts import seen_layouts
from bpfleet.schema import Map, Meaning
from bpfleet.schema_source import map_of, source_of
from bpfleet_bpf import INCLUDE
from objects_fixture import Objects

_OURS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Objects:
    return Objects(tmp_path_factory.mktemp("objects"))


def _run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(command, [str(one) for one in arguments], catch_exceptions=False)


def _output(*arguments: str | Path) -> str:
    result = _run(*arguments)
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout


def _declared(path: Path) -> dict[str, Map]:
    """What the printed source declares, when it is run as a plugin would."""
    names: dict[str, Any] = {}
    exec(compile(_output("--as-schema", path), "printed", "exec"), names)
    return {one.name: one for one in names["MAPS"]}


def _check(path: Path) -> dict[str, Map]:
    made, maps = bpf_object.read(path), _declared(path)
    for name, one in maps.items():
        key, value, _ = seen_layouts(made, name)
        events = event_types(made, name)
        if events is not None:
            event = events.guess(name).layout
            assert differences(declared(one.value, packed=one.packed), event, "event") == []
            continue
        assert key is not None
        assert value is not None
        if one.is_globals:
            there = {leaf.name: leaf.ctype for leaf in value.leaves}
            for leaf in declared(one.value).leaves:
                assert there[leaf.name] == leaf.ctype
            continue
        assert differences(declared(one.key, packed=one.packed), key, "key") == []
        assert differences(declared(one.value, packed=one.packed), value, "value") == []
    return maps


@pytest.mark.parametrize("name", ["fields", "maps", "programs"])
def test_what_is_printed_runs_and_agrees_with_the_object(objects: Objects, name: str) -> None:
    maps = _check(objects(name))
    made = bpf_object.read(objects(name))
    typed = [one for one in made.maps if None not in seen_layouts(made, one)[:2]]
    assert [one for one in maps if not one.startswith(".")] == typed


def test_what_is_printed_of_the_shipped_programs_agrees_with_them(objects: Objects) -> None:
    sources = list(core_sources(_OURS / "plugins"))
    assert sources
    for source in sources:
        assert _check(_shipped(objects, source.name))


def _shipped(objects: Objects, name: str) -> Path:
    (source,) = (one for one in core_sources(_OURS / "plugins") if one.name == name)
    return objects.compile(source.read_text(), source.name.removesuffix(".bpf.c"), f"-I{INCLUDE}")


def test_packed_structs_are_declared_as_packed(objects: Objects) -> None:
    maps = _declared(objects("fields"))
    assert maps["of_packed"].packed
    assert not maps["of_arrays"].packed


def test_fields_that_are_padding_are_declared_as_such(objects: Objects) -> None:
    fields = {field.name: field.meaning for field in _declared(objects("fields"))["of_kernels"].value}
    assert fields["lock"] is fields["timer"] is fields["owner"] is Meaning.PADDING
    assert fields["count"] is Meaning.COUNTER


def test_a_field_that_key_and_value_both_have_is_told_in_a_comment(objects: Objects) -> None:
    text = _output("--as-schema", objects("fields"))
    assert "# of_twice: the key has a field 'pid' too; rename the value's in C to send it.\n" in text
    values = _declared(objects("fields"))["of_twice"].value
    assert {field.meaning for field in values} == {Meaning.PADDING}


def test_maps_that_can_not_be_declared_are_told_in_a_comment(objects: Objects) -> None:
    text = _output("--as-schema", objects("maps"))
    assert "# programs (prog_array): no types of key and value to declare.\n" in text


def test_counts_that_are_told_as_losses_and_constants_are_left_out(objects: Objects) -> None:
    assert set(_declared(_shipped(objects, "execve.bpf.c"))) == {"counts", "failures"}
    assert set(_declared(_shipped(objects, "tcpretrans.bpf.c"))) == {"peers"}  # an LRU map


def test_an_object_without_maps_declares_none(objects: Objects) -> None:
    assert _declared(objects("programs")) == {}


@pytest.mark.parametrize(
    ("leaf", "text"),
    [
        (Leaf("slots", 0, "u64", 32), 'histogram("slots", 32)'),
        (Leaf("slots", 0, "u32", 32), 'Field("slots", "u32[32]", Meaning.HISTOGRAM)'),
        (Leaf("errors", 0, "u64"), 'counter("errors", "u64")'),
        (Leaf("total_ns", 0, "u64"), 'counter("total_ns", "u64", unit="ns")'),
        (Leaf("depth", 0, "u32"), 'gauge("depth", "u32")'),
        (Leaf("rx_bytes", 0, "u64"), 'counter("rx_bytes", "u64", unit="bytes")'),
        (Leaf("count", 0, "s64"), 'gauge("count", "s64")'),
        (Leaf("last_seen", 0, "u64"), 'timestamp("last_seen")'),
        (Leaf("mac", 0, "u8", 6), 'label("mac", "u8[6]")'),
        (Leaf("comm", 0, "char", 16, Meaning.LABEL), 'label("comm", "char[16]")'),
        (Leaf("a.b", 0, "u64"), 'struct("a", gauge("b", "u64"))'),
        (Leaf("", 0, "u64"), 'gauge("value", "u64")'),
        (Leaf("odd\ufffd", 0, "u64"), "padding(8)"),
    ],
)
def test_meanings_are_guessed_from_names(leaf: Leaf, text: str) -> None:
    made = map_of("m", Layout(0, ()), Layout(leaf.size, (leaf,)))
    assert made is not None
    assert f"        {text},\n" in source_of(made)
    assert _evaluated(source_of(made)) == made


def _evaluated(source: str) -> object:
    return eval(source, {name: getattr(bpfleet, name) for name in bpfleet.__all__})


_BASES = st.sampled_from(["u8", "u16", "u32", "u64", "s8", "s64", "f64", "bool", "char", "bytes"])
_NAMES = st.lists(st.sampled_from("abcd"), min_size=1, max_size=3).map(".".join)


@st.composite
def _layouts(draw: st.DrawFn) -> Layout:
    leaves: list[Leaf] = []
    offset = 0
    for name in draw(st.lists(_NAMES, min_size=1, max_size=6, unique=True)):
        # In C a name is either a member or a struct, and a struct's members are next to each other.
        first = name.partition(".")[0]
        firsts = [leaf.name.partition(".")[0] for leaf in leaves]
        if first in firsts or any(leaf.name.startswith(f"{name}.") for leaf in leaves):
            continue
        base = draw(_BASES)
        count = draw(st.integers(1, 9) | (st.none() if base not in ("char", "bytes") else st.integers(1, 2)))
        offset += draw(st.integers(0, 8))
        leaves.append(Leaf(name, offset, base, count))
        offset = leaves[-1].offset + leaves[-1].size
    return Layout(offset + draw(st.integers(0, 8)), tuple(leaves))


@settings(deadline=None)
@given(_layouts(), _layouts())
def test_any_layout_can_be_declared(key: Layout, value: Layout) -> None:
    made = map_of("m", key, value)
    assert made is not None
    assert differences(declared(made.key, packed=made.packed), key, "key") == []
    assert differences(declared(made.value, packed=made.packed), value, "value") == []


@settings(deadline=None, max_examples=50)
@given(key=_layouts(), value=_layouts())
def test_the_source_of_any_declaration_makes_it_again(key: Layout, value: Layout) -> None:
    made = map_of("m", key, value)
    assert made is not None
    assert _evaluated(source_of(made)) == made

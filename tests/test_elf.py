"""The ELF reader, beside binutils and LLVM, and with damaged files."""

from __future__ import annotations

import re
import struct
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpfleet import elf
from bpfleet.errors import ObjectError
from objects_fixture import Objects, output_of, raises_nothing_else

_NAMES = ("fields", "maps", "programs")


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Objects:
    return Objects(tmp_path_factory.mktemp("objects"))


@pytest.fixture(scope="module")
def whole(objects: Objects) -> bytes:
    return objects("maps").read_bytes()


def _read(path: Path) -> elf.Elf:
    return elf.read(path.read_bytes(), path.name)


@pytest.mark.parametrize("name", _NAMES)
def test_sections_are_those_that_llvm_objdump_lists(objects: Objects, name: str) -> None:
    listed = re.findall(
        r"^ *(\d+) (\S+) +([0-9a-f]{8,16}) [0-9a-f]{16}",
        output_of("llvm-objdump", "-h", str(objects(name))),
        re.M,
    )
    ours = [(one.index, one.name, one.size) for one in _read(objects(name)).sections if one.index]
    assert ours == [(int(index), text, int(size, 16)) for index, text, size in listed]
    assert len(ours) > 20


@pytest.mark.parametrize("name", _NAMES)
def test_offsets_and_flags_are_those_that_readelf_lists(objects: Objects, name: str) -> None:
    listed = re.findall(
        r"^ +\[ *(\d+)\] (\S+) +(\S+) +0{16} ([0-9a-f]{6}) ([0-9a-f]{6}) [0-9a-f]{2} +([A-Zop]*) +(\d+)",
        output_of("readelf", "-SW", str(objects(name))),
        re.M,
    )
    ours = [
        (one.index, one.name, one.offset, one.size, bool(one.flags & elf.SHF_ALLOC), one.link)
        for one in _read(objects(name)).sections[1:]
    ]
    theirs = [
        (int(index), text, int(offset, 16), int(size, 16), "A" in flags, int(link))
        for index, text, _, offset, size, flags, link in listed
    ]
    assert ours == theirs


@pytest.mark.parametrize("name", _NAMES)
def test_symbols_are_those_that_readelf_lists(objects: Objects, name: str) -> None:
    listed = re.findall(
        r"^ +\d+: ([0-9a-f]{16}) +(\d+) (\w+) +(\w+) +DEFAULT +(\w+) ?(\S*)$",
        output_of("readelf", "-sW", str(objects(name))),
        re.M,
    )
    theirs = [
        (
            int(value, 16),
            int(size),
            kind.lower(),
            binding.lower(),
            int(section) if section.isdigit() else 0,
            # binutils calls a section's symbol by the section's name.
            "" if kind == "SECTION" else text,
        )
        for value, size, kind, binding, section, text in listed
    ]
    made = _read(objects(name))
    assert theirs == [
        (one.value, one.size, one.type, one.binding, one.section, one.name) for one in made.symbols
    ]
    assert all(one.section_name == made.sections[one.section].name for one in made.symbols)


def test_a_section_gives_the_bytes_that_objcopy_takes_out(objects: Objects, tmp_path: Path) -> None:
    path, out = objects("maps"), tmp_path / "rodata"
    output_of("llvm-objcopy", f"--dump-section=.rodata={out}", str(path), str(tmp_path / "unused.o"))
    section = _read(path).section(".rodata")
    assert section is not None
    assert section.data == out.read_bytes()


def test_a_section_without_bytes_in_the_file_is_empty(objects: Objects) -> None:
    section = _read(objects("maps")).section(".bss")
    assert section is not None
    assert (section.type, section.data) == (elf.SHT_NOBITS, b"")
    assert section.size > 0


def test_a_section_that_is_not_there_is_none(objects: Objects) -> None:
    assert _read(objects("maps")).section(".nowhere") is None


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "the file is empty"),
        (b"#include <linux/bpf.h>\n", "not an ELF file"),
        (b"\x7fELF\x02\x01", "beyond its end"),
    ],
)
def test_what_is_no_object_is_told(data: bytes, what: str) -> None:
    with pytest.raises(ObjectError, match=what) as caught:
        elf.read(data, "x.bpf.o")
    assert caught.value.where.startswith("x.bpf.o: ")
    assert caught.value.remedy


def test_an_object_for_another_machine_names_it() -> None:
    with pytest.raises(ObjectError, match=r"this object is for \S+, not for BPF"):
        elf.read(Path(sys.executable).resolve().read_bytes(), "python")


def test_a_big_endian_object_is_told_with_the_remedy(objects: Objects) -> None:
    path = objects.compile("int x;", "big", "-target", "bpfeb")
    with pytest.raises(ObjectError, match="big-endian") as caught:
        _read(path)
    assert "bpfel" in caught.value.remedy


def test_a_32_bit_file_is_told(whole: bytes) -> None:
    with pytest.raises(ObjectError, match="not a 64-bit"):
        elf.read(whole[:4] + b"\x01" + whole[5:], "x.bpf.o")


def test_a_linked_program_is_told(whole: bytes) -> None:
    with pytest.raises(ObjectError, match="of type 2, not an object file"):
        elf.read(whole[:16] + struct.pack("<H", 2) + whole[18:], "x.bpf.o")


def test_a_section_beyond_the_end_is_named(whole: bytes) -> None:
    (headers,) = struct.unpack_from("<Q", whole, 0x28)
    at = headers + 3 * 64 + 0x20
    with pytest.raises(ObjectError, match="beyond its end") as caught:
        elf.read(whole[:at] + struct.pack("<Q", 1 << 63) + whole[at + 8 :], "x.bpf.o")
    assert caught.value.where == "x.bpf.o: section 3"


def test_names_can_not_play_with_a_terminal(whole: bytes) -> None:
    made = elf.read(whole.replace(b"\0last_comm\0", b"\0\x1b[31mcom\n\0"), "x.bpf.o")
    assert "\ufffd[31mcom\ufffd" in [one.name for one in made.symbols]


def test_every_cut_of_a_file_is_refused(whole: bytes) -> None:
    # The section headers are the last thing in the file.
    for size in range(0, len(whole), 97):
        with pytest.raises(ObjectError):
            elf.read(whole[:size], "cut.bpf.o")


@settings(deadline=None, max_examples=400)
@given(st.data())
def test_a_damaged_file_raises_nothing_but_our_error(whole: bytes, data: st.DataObject) -> None:
    (headers,) = struct.unpack_from("<Q", whole, 0x28)
    # Where damage tells most: the header, the section headers, the symbols.
    place = st.integers(0, 63) | st.integers(headers, len(whole) - 1) | st.integers(0, len(whole) - 1)
    changes = data.draw(st.lists(st.tuples(place, st.integers(0, 255)), min_size=1, max_size=12))
    damaged = bytearray(whole)
    for at, byte in changes:
        damaged[at] = byte
    if raises_nothing_else(lambda: elf.read(bytes(damaged), "damaged"), "damaged"):
        made = elf.read(bytes(damaged), "damaged")
        assert all(one.type in (0, elf.SHT_NOBITS) or len(one.data) == one.size for one in made.sections)


@settings(deadline=None)
@given(st.binary(max_size=400))
def test_noise_after_the_magic_raises_nothing_but_our_error(noise: bytes) -> None:
    with pytest.raises(ObjectError):
        elf.read(b"\x7fELF\x02\x01\x01" + noise, "noise")

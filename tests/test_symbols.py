"""Names of addresses, against what other programs say of the same files and the same kernel."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bpfleet.symbols.elf_file import ElfFile, ElfFiles, read_elf
from bpfleet.symbols.kallsyms import KernelSymbols, parse


def elf(path: Path) -> ElfFile:
    with path.open("rb") as file:
        made = read_elf(file.fileno(), debug=Path("/nonexistent"))
    assert made is not None
    return made


def addresses(*numbers: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    return np.array(numbers, np.uint64)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library of many functions of different sizes."""
    folder = tmp_path_factory.mktemp("library")
    source = folder / "many.c"
    lines = ["volatile long sum;"]
    for number in range(500):
        kind = "" if number % 3 else "static __attribute__((used, noinline)) "
        lines.append(f"{kind}void function_{number}(void) {{ {'sum += 3; ' * (number % 17 + 1)} }}")
    source.write_text("\n".join(lines))
    made = folder / "many.so"
    subprocess.run(["gcc", "-O1", "-shared", "-fPIC", "-o", made, source], check=True)
    return made


@pytest.mark.parametrize("stripped", [False, True])
def test_every_function_of_a_file_is_found_by_any_of_its_bytes(
    library: Path, tmp_path: Path, stripped: bool
) -> None:
    file = tmp_path / "many.so"
    subprocess.run(["strip", *([] if stripped else ["-g"]), "-o", file, library], check=True)
    shown = subprocess.run(
        ["nm", "-S", *(["-D"] if stripped else []), file], capture_output=True, text=True, check=True
    )
    told = [line.split() for line in shown.stdout.splitlines() if "function_" in line]
    assert len(told) == (333 if stripped else 500)
    found = elf(file)
    assert found.build_id in subprocess.run(["readelf", "-n", file], capture_output=True, text=True).stdout
    for start, size, _, name in told:
        first, length = int(start, 16), int(size, 16)
        # gcc lays such a library out so that a function's place in the file is its address.
        places = addresses(first, first + length // 2, first + length - 1)
        assert found.find(places) == [name] * 3
    assert found.find(addresses(0, 1 << 40, (1 << 64) - 1)) == ["", "", ""]


def test_a_damaged_file_gives_no_names_and_no_error(library: Path, tmp_path: Path) -> None:
    whole = library.read_bytes()
    chance = random.Random(5)
    damaged = tmp_path / "damaged.so"
    for _ in range(300):
        data = bytearray(whole[: chance.choice([len(whole), chance.randrange(len(whole))])])
        for _ in range(chance.randrange(1, 40)):
            if data:
                where = chance.randrange(min(len(data), chance.choice([64, 1024, len(data)])))
                data[where] = chance.randrange(256)
        damaged.write_bytes(data)
        with damaged.open("rb") as file:
            made = read_elf(file.fileno())
        if made is not None:
            made.find(addresses(0, 4096, 1 << 40, (1 << 64) - 1))


def test_another_file_of_the_same_name_is_not_taken_for_it(library: Path) -> None:
    inode = library.stat().st_ino
    assert ElfFiles().get(str(library), inode + 1) is None
    assert ElfFiles().get(str(library), inode) is not None
    assert ElfFiles().get(str(library.parent), library.parent.stat().st_ino) is None
    assert ElfFiles().get("/proc/self/mem", 0) is None
    assert ElfFiles().build_id(str(library), inode + 1) == ""
    assert ElfFiles().build_id(str(library), inode) == elf(library).build_id != ""
    assert ElfFiles().build_id(str(library.parent), library.parent.stat().st_ino) == ""


def test_files_in_no_stack_cost_no_table(library: Path) -> None:
    """Of a process's fifty libraries a stack names a few."""
    files = ElfFiles()
    assert files.build_id(str(library), library.stat().st_ino)
    assert files.memory_bytes == 0
    files.get(str(library), library.stat().st_ino)
    assert files.memory_bytes > 0


def test_files_are_kept_within_bounds(library: Path, tmp_path: Path) -> None:
    files = ElfFiles(most_files=3)
    for number in range(9):
        copy = tmp_path / f"{number}.so"
        copy.write_bytes(library.read_bytes())
        one = files.get(str(copy), copy.stat().st_ino)
        assert one is not None
        assert files.memory_bytes <= 3 * one.table.memory_bytes


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to see the kernel's addresses")
def test_kernel_functions_are_found_as_kallsyms_lists_them() -> None:
    functions: dict[int, str] = {}
    for line in Path("/proc/kallsyms").read_text().splitlines():
        address, kind, name = line.split()[:3]
        if kind in "tTwW":
            functions.setdefault(int(address, 16), name)
    starts = sorted(functions)
    chosen = random.Random(1).sample(range(len(starts) - 1), 2000)
    with Path("/proc/kallsyms").open("rb") as file:
        symbols = KernelSymbols(file.fileno())
        found = symbols.find(addresses(*(starts[i] for i in chosen)))
        assert found == [functions[starts[i]] for i in chosen]
        inside = symbols.find(addresses(*(starts[i + 1] - 1 for i in chosen)))
        assert inside == found
        assert symbols.find(addresses(0x1000)) == [""]


def test_a_kernel_that_hides_its_addresses_gives_no_names() -> None:
    hidden = b"".join(b"0000000000000000 T function_%d\n" % number for number in range(100))
    assert parse(hidden).find(addresses(0, 1, 1 << 63)) == ["", "", ""]


def test_names_of_modules_are_names_of_functions() -> None:
    lines = (
        b"ffffffffc0000000 t first\t[one]\n",
        b"ffffffffc0000100 d data\t[one]\n",
        b"ffffffffc0000200 T last\t[two]\n",
    )
    base = 0xFFFFFFFFC0000000
    found = parse(b"".join(lines)).find(addresses(base, base + 0x1FF, base + 0x200))
    assert found == ["first", "first", "last"]


@pytest.mark.parametrize(
    "text",
    [b"", b"\n", b"short\n", b"no newline", b"zzzzzzzzzzzzzzzz T name_of\n", b"\xff" * 99 + b"\n"],
)
def test_what_is_no_table_of_symbols_gives_no_names(text: bytes) -> None:
    assert parse(text).find(addresses(1)) == [""]


def test_the_interpreter_itself_has_names() -> None:
    path = Path(sys.executable).resolve()
    assert len(elf(path).table) > 1000

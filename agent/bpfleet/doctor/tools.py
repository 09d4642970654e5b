"""Libraries and programs: libbpf, clang, bcc, kernel headers, Python packages."""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib.machinery import PathFinder
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from bpfleet.doctor.child import ChildFailed, run_command
from bpfleet.doctor.finding import Finding, Subject, missing, ok, warn
from bpfleet.doctor.kernel_btf import KERNEL_BTF
from bpfleet.errors import CompileError, UnsupportedError
from bpfleet.loader.compile import core_sources, object_for
from bpfleet.loader.headers import installed_headers
from bpfleet.loader.libbpf import library
from bpfleet.plugins import listed
from bpfleet_bpf import SNAPSHOT

__all__ = ["bcc", "clang", "headers", "libbpf", "python_packages"]

_VENV = "make the venv from /usr/bin/python3 with --system-site-packages"


def libbpf(subject: Subject) -> Iterator[Finding]:
    """libbpf.so.1, with every function that the loader calls."""
    remedy = "apt-get install libbpf1 (1.1 or later); without it only bcc collectors load"
    try:
        lib = library()
    except UnsupportedError as error:
        yield missing("libbpf", error.what, remedy)
        return
    except AttributeError as error:
        yield missing("libbpf", f"libbpf.so.1 is too old: {error}", remedy)
        return
    lib.libbpf_version_string.restype = ctypes.c_char_p
    said = lib.libbpf_version_string().decode().removeprefix("v")
    yield ok("libbpf", f"{said}, {_mapped('libbpf.so') or 'libbpf.so.1'}")


def _mapped(name: str) -> str:
    """The file of that name that is mapped into this process."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        path = line.split(maxsplit=5)[5:]
        if path and os.path.basename(path[0]).startswith(name):
            return path[0]
    return ""


def clang(subject: Subject) -> Iterator[Finding]:
    """The compiler, and whether any program of an installed collector has to be compiled here."""
    stale = _to_compile()
    told = (
        f"{', '.join(stale)} must be compiled" if stale else "every .bpf.c has an object that is up to date"
    )
    place = shutil.which("clang")
    if place is None and stale:
        yield missing("clang", f"not on PATH, and {told}", "apt-get install clang libbpf-dev linux-libc-dev")
        return
    if place is None:
        remedy = "apt-get install clang libbpf-dev, to run .bpf.c files that no wheel carries an object of"
        yield warn("clang", f"not on PATH, and not needed now: {told}", remedy)
        return
    try:
        done = run_command([place, "--version"])
        found = re.search(r"version (\d[\w.]*)", done.stdout)
        problem = "" if found else f"{place} --version gives exit code {done.returncode}"
    except (OSError, ChildFailed) as error:
        found, problem = None, str(error)
    if found:
        yield ok("clang", f"{found.group(1)}, {place}; {told}")
    else:
        kind = missing if stale else warn
        yield kind("clang", f"{problem}; {told}", "apt-get install --reinstall clang")


def _to_compile() -> list[str]:
    """Names of the `.bpf.c` files of the agent and of installed collectors that have no fresh object."""
    sources = list(core_sources(SNAPSHOT.parent, *_plugin_folders()))
    path = os.environ.get("PATH")
    # No program is found on an empty PATH: an object that is not fresh is refused instead of being made.
    os.environ["PATH"] = ""
    try:
        return [source.name for source in sources if not _fresh(source)]
    finally:
        os.environ.pop("PATH")
        if path is not None:
            os.environ["PATH"] = path


def _fresh(source: Path) -> bool:
    try:
        object_for(source)
    except CompileError:
        return False
    return True


def _plugin_folders() -> list[Path]:
    """Where the installed collectors' packages lie, found without importing them."""
    folders = set()
    for one in listed():
        top, *below = one.entry_point.module.split(".")
        found = PathFinder.find_spec(top) if one.kind == "collector" else None
        for place in (found.submodule_search_locations or ()) if found else ():
            folder = Path(place, *below)
            folders.add(folder if folder.is_dir() else folder.parent)
    return sorted(folders)


_ASK_BCC = """
import json, bcc
print(json.dumps([hasattr(bcc, "BPF"), getattr(bcc, "__version__", ""), bcc.__file__]))
"""


def bcc(subject: Subject) -> Iterator[Finding]:
    """bcc, imported in a process of its own: it maps LLVM."""
    remedy = f"for collectors of kind bcc: apt-get install python3-bpfcc, and {_VENV}"
    try:
        done = run_command([sys.executable, "-P", "-c", _ASK_BCC], seconds=40)
    except ChildFailed as error:
        yield warn("bcc", str(error), remedy)
        return
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        yield warn("bcc", f"can't be imported: {lines[-1]}", remedy)
        return
    right, said, place = json.loads(done.stdout.splitlines()[-1])
    if right:
        yield ok("bcc", f"{said or 'of unknown version'}, {place}")
    else:
        detail = f"{place or 'what is imported'} is not bcc: PyPI has an unrelated package of that name"
        yield warn("bcc", detail, f"pip uninstall bcc; {remedy}")


def headers(subject: Subject) -> Iterator[Finding]:
    """Which kernel headers bcc will compile with."""
    named = os.environ.get("BCC_KERNEL_SOURCE")
    found = installed_headers()
    if found is not None:
        theirs = _release_of(found)
        if theirs and theirs != os.uname().release:
            detail = f"{found} is of {theirs}, not of this kernel: structs may be read wrongly"
            yield warn(
                "kernel headers", detail, "unset BCC_KERNEL_SOURCE: types then come from the kernel's BTF"
            )
        else:
            yield ok("kernel headers", f"installed: {found}")
    elif named:
        detail = f"BCC_KERNEL_SOURCE={named} has no include/linux/kconfig.h, so a generated tree is used"
        yield warn("kernel headers", detail, "unset BCC_KERNEL_SOURCE, or have it name a tree of headers")
    elif KERNEL_BTF.exists():
        yield ok("kernel headers", "none installed; bcc gets a tree made from the kernel's own BTF")
    else:
        detail = "none installed, and no BTF to make them from: bcc programs can't read kernel structs"
        yield warn("kernel headers", detail, "apt-get install linux-headers-$(uname -r)")


def _release_of(tree: Path) -> str:
    for place in ("include/config/kernel.release", "include/generated/utsrelease.h"):
        with suppress(OSError):
            said = re.search(r"\d+\.\d+[^\s\"]*", (tree / place).read_text())
            if said:
                return said.group()
    return ""


def python_packages(subject: Subject) -> Iterator[Finding]:
    """The packages that bpfleet asks for, with the versions that this interpreter has."""
    here = f"Python {'.'.join(map(str, sys.version_info[:3]))}, {sys.executable}"
    yield ok("python", f"{here}")
    try:
        wanted = [one for one in requires("bpfleet") or () if ";" not in one]
        own = version("bpfleet")
    except PackageNotFoundError:
        yield warn("packages", "bpfleet runs from its sources and is not installed", "pip install bpfleet")
        return
    there = [f"bpfleet {own}"]
    for one in wanted:
        name, bounds = re.match(r"([\w.-]+)(.*)", one).groups()  # type: ignore[union-attr]
        try:
            has = version(name)
        except PackageNotFoundError:
            yield missing(name, f"not installed; bpfleet needs {one}", f"pip install '{one}'")
            continue
        if within(has, bounds):
            there.append(f"{name} {has}")
        else:
            yield missing(name, f"{has} is installed; bpfleet needs {one}", f"pip install '{one}'")
    yield ok("packages", ", ".join(there))


def within(has: str, bounds: str) -> bool:
    """Whether version `has` is within `bounds` such as ">=1.7,<2"; only >=, <=, <, > and == are known."""
    have = _numbers(has)
    for bound in bounds.replace(" ", "").split(","):
        found = re.match(r"(>=|<=|==|<|>)(\d[\d.]*)", bound)
        if found is None:
            continue
        want = _numbers(found.group(2))
        width = max(len(have), len(want))
        left, right = (one + (0,) * (width - len(one)) for one in (have, want))
        holds = {
            ">=": left >= right,
            "<=": left <= right,
            "==": left == right,
            "<": left < right,
            ">": left > right,
        }
        if not holds[found.group(1)]:
            return False
    return True


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", re.split(r"[^\d.]", text)[0]))

"""Compile a source in BCC's dialect: bcc's process-wide habits contained, its failures turned into errors."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

from bpfleet.errors import BpfleetError, CompileError, ConfigError, LoadError, UnsupportedError
from bpfleet.loader.headers import Includes, header_tree, includes_of, installed_headers
from bpfleet.loader.llvm_exit import outlived
from bpfleet.loader.logs import Stderr, compiler_errors
from bpfleet.protocol import Load

__all__ = ["compile_source", "in_source", "kept_apart"]

_MAIN = re.compile(r"/virtual/main\.c:(\d+)(?=:\d+: )")
"""How clang names the source: bcc hands it over as text."""
_WITHIN = re.compile(r": in function (\w+) ")
"""How LLVM's code generator says where: it shows no line."""
_STEP = re.compile(r"(; )(.*\S) @ main\.c:\d+$")
"""How the kernel's verifier names a line of it."""
_MAP_REFUSED = re.compile(r"could not open bpf map: (\w+), error: (.*)")
_REDEFINED = re.compile(r"'(\w+)' macro redefined")
_FLAG = re.compile(r"-[DUI]\S.*|-std=\w+|-W[a-z][\w=+-]*")
"""Flags that say something of the source. Others make clang do more, and it runs as root here."""
_LACKS_TYPES = re.compile(
    r"incomplete|unknown type name|undeclared|implicit declaration|cannot call non-static|no member named"
    r"|file not found"
)
"""What clang says where a program needs kernel types; any other error is the author's and is told at once."""


def compile_source(request: Load, text: str) -> Any:
    """bcc's `BPF` object of the source: maps are in the kernel, no program is.

    Raises CompileError with clang's errors, LoadError where the kernel refuses a map, UnsupportedError
    where bcc or what it needs is missing.
    """
    source = Path(request.source).absolute()
    folders = [
        source.parent,
        Path(str(files("bpfleet_bpf") / "include")),
        *_named_folders(request, source.parent),
    ]
    _check_flags(request, source)
    includes = includes_of(text, folders)
    _check_knobs(request, includes, source)
    flags = [f"-I{folder}" for folder in folders]
    flags += [f"-D{name}={_literal(value)}" for name, value in request.knobs.items()]
    flags += [flag for flag in request.cflags if not flag.startswith("-I")]
    if installed_headers() is not None:
        return _compile(text, flags, source, request.knobs)
    try:
        with header_tree(includes.kernel, typed=False):
            return _compile(text, flags, source, request.knobs)
    except CompileError as error:
        if not _LACKS_TYPES.search(error.log):
            raise
    with header_tree(includes.kernel, typed=True):
        return _compile(text, flags, source, request.knobs)


def _compile(text: str, flags: list[str], source: Path, knobs: Mapping[str, int]) -> Any:
    held_back = _held_back()
    with kept_apart() as log:
        compiled, failure = outlived(lambda: held_back(text=text.encode(), cflags=flags))
    said = in_source(log.text, text, source)
    if failure is not None:
        raise _failed(said, failure, source)
    ignored = next((name for name in _REDEFINED.findall(said) if name in knobs), None)
    if ignored is not None:
        raise CompileError(
            f"the source defines {ignored} itself, so the knob of that name does nothing",
            where=str(source),
            remedy=f"put `#ifndef {ignored}` before its #define and `#endif` after",
        )
    return compiled


def _held_back() -> Any:
    """bcc's BPF class, without attaching from its constructor and without disabling things at exit."""
    try:
        from bcc import BPF
    except ImportError as error:
        raise UnsupportedError(
            f"bcc can't be imported: {error}",
            where="collectors of kind bcc",
            remedy="apt-get install python3-bpfcc, and make the venv from /usr/bin/python3 with "
            "--system-site-packages (the package called bcc on PyPI is something else)",
        ) from None

    class HeldBack(BPF):  # type: ignore[misc]
        def _trace_autoload(self) -> None:
            """Nothing: `BccObject.attach` does this once the schema has been compared."""

        def cleanup(self) -> None:
            """Nothing: bcc's own, run at exit, disables perf events whose fds others hold by then."""

    return HeldBack


@contextmanager
def kept_apart() -> Iterator[Stderr]:
    """Around every call into bcc: fd 2 is kept, and the working directory is afterwards what it was."""
    here = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
    try:
        with Stderr() as log:
            yield log
    finally:
        os.fchdir(here)
        os.close(here)


def in_source(log: str, text: str, source: Path) -> str:
    """The log with lines of the author's source in place of lines of what bcc made of it.

    bcc writes structs and helpers into the text before clang sees it, so its line numbers are too high.
    The right one is found by the line that the log shows; where bcc rewrote that line too, no number is told.
    """
    numbers: dict[str, list[int]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        numbers.setdefault(line.strip(), []).append(number)
    lines = log.splitlines()
    for at, line in enumerate(lines):
        if match := _STEP.search(line):
            found = numbers.get(match.group(2).strip(), [])
            where = f" @ {source.name}:{found[0]}" if len(found) == 1 else ""
            lines[at] = line[: match.start()] + f"; {match.group(2)}{where}"
        elif match := _MAIN.search(line):
            shown = lines[at + 1].strip() if at + 1 < len(lines) else ""
            if within := _WITHIN.search(line):
                shown = next((one for one in numbers if re.search(rf"\b{within.group(1)}\s*\(", one)), "")
            before = [number for number in numbers.get(shown, []) if number <= int(match.group(1))]
            lines[at] = _MAIN.sub(f"{source}:{before[-1] if before else match.group(1)}", line)
    return "\n".join(lines)


def _failed(said: str, failure: BaseException, source: Path) -> BpfleetError:
    where = str(source)
    if match := _MAP_REFUSED.search(said):
        return LoadError(
            f"the kernel refuses map {match.group(1)!r}: {match.group(2)}",
            where=where,
            remedy="check its type, key size, value size and max_entries; as root, check memory limits",
        )
    if "Unable to find kernel headers" in said or "kconfig.h' file not found" in said:
        return UnsupportedError(
            "bcc finds no kernel headers",
            where=where,
            remedy="apt-get install linux-headers-$(uname -r), or unset BCC_KERNEL_SOURCE",
        )
    errors = compiler_errors(said)
    return CompileError(
        "the compiler refuses the source",
        where=where,
        log=errors or str(failure),
        remedy=_remedy(said, errors),
    )


def _remedy(said: str, errors: str) -> str:
    if re.search(r"tracepoint|kernel/(debug/)?tracing|args->", errors):
        return "check group and name of each TRACEPOINT_PROBE against /sys/kernel/tracing/events"
    if "redefinition of" in errors and "kernel_types.h" in said:
        return "the kernel has a type of that name too: rename yours"
    if "stack limit" in errors or "stack size" in errors:
        return "a BPF program has 512 bytes of stack: keep large values in a map (BPF_PERCPU_ARRAY of one)"
    return "mend the source at the line named"


def _named_folders(request: Load, beside: Path) -> list[Path]:
    # bcc compiles from another directory, so a relative -I is made to mean: beside the source.
    return [beside / flag[2:] for flag in request.cflags if flag.startswith("-I") and len(flag) > 2]


def _literal(value: int) -> str:
    suffix = "ULL" if value > 0x7FFF_FFFF_FFFF_FFFF else "LL" if abs(value) > 0x7FFF_FFFF else ""
    return f"({value}{suffix})" if value < 0 else f"{value}{suffix}"


def _check_flags(request: Load, source: Path) -> None:
    for flag in request.cflags:
        if not _FLAG.fullmatch(flag):
            raise CompileError(
                f"the compiler flag {flag!r} is not passed on",
                where=str(source),
                remedy="use -DNAME=VALUE, -UNAME, -IFOLDER, -std=… and -W…",
            )


def _check_knobs(request: Load, includes: Includes, source: Path) -> None:
    for name in request.knobs:
        if not re.fullmatch(r"[A-Za-z_]\w*", name) or not re.search(rf"\b{name}\b", includes.text):
            raise CompileError(
                f"the source has no knob {name!r}",
                where=str(source),
                remedy=f"use {name} in the source, or leave it out of the collector's knobs",
            )
        if not isinstance(request.knobs[name], int):
            raise ConfigError(
                f"knob {name!r} is {request.knobs[name]!r}, and must be a whole number",
                where=str(source),
                remedy="a knob of a bcc program is a macro: give a number",
            )

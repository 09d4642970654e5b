"""From `.bpf.c` to `.bpf.o`: compiled ahead of time, again when the source or a header has changed.

Beside `x.bpf.o` stands `x.bpf.o.inputs`: a hash of everything that went in. A wheel carries both.
Where the source's own directory can't be written to, the object goes to a cache directory.

Standard library only: the wheel's build hook imports this module.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from bpfleet.errors import CompileError
from bpfleet.loader.submitted import keeping
from bpfleet_bpf import INCLUDE

__all__ = ["CACHE", "core_sources", "object_for"]

CACHE = Path("/var/cache/bpfleet/objects")
_VMLINUX = re.compile(r'^[ \t]*#[ \t]*include[ \t]*[<"]vmlinux\.h[>"]', re.MULTILINE)
_ARCH = {"x86_64": "x86", "aarch64": "arm64"}


def object_for(source: Path) -> Path:
    """The up-to-date object of `source` (a `.bpf.o` stands for itself); raises CompileError."""
    if source.suffix == ".o":
        return source
    try:
        wanted = _inputs_hash(source)
    except OSError as error:
        raise CompileError(
            f"the source can't be read: {error.strerror}",
            where=str(source),
            remedy="does the package's wheel contain its .bpf.c?",
        ) from None
    beside = source.with_suffix(".o")
    cached = CACHE / f"{source.stem}.{wanted[:16]}.o"
    for made in (beside, cached):
        if _fresh(made, wanted):
            return made
    # In an installation nothing is added to what the installer knows of.
    installed = {"site-packages", "dist-packages"} & set(source.parts)
    target = cached if installed or not os.access(source.parent, os.W_OK) else beside
    _compile(source, target, wanted)
    return target


def core_sources(*roots: Path) -> Iterator[Path]:
    """Every `.bpf.c` of libbpf's dialect below `roots`: those that define `SEC("license")`; bcc's
    dialect has none."""
    for root in roots:
        for source in sorted(root.rglob("*.bpf.c")):
            if 'SEC("license")' in source.read_text():
                yield source


def _fresh(made: Path, wanted: str) -> bool:
    try:
        return made.exists() and _inputs_file(made).read_text() == wanted
    except OSError:
        return False


def _inputs_file(made: Path) -> Path:
    return made.with_name(made.name + ".inputs")


def _flags() -> list[str]:
    machine = platform.machine()
    # CO-RE's types come from the running kernel; -mcpu=v3 (atomics with results, 32-bit ALU) needs 5.12.
    return [
        "-g",
        "-O2",
        "-target",
        "bpf",
        "-mcpu=v3",
        f"-D__TARGET_ARCH_{_ARCH.get(machine, machine)}",
        "-Wall",
        f"-I{INCLUDE}",
        f"-I/usr/include/{machine}-linux-gnu",
        # "bpf_helpers.h" without its folder, as in projects that carry libbpf's headers with them.
        "-idirafter",
        "/usr/include/bpf",
    ]


def _inputs_hash(source: Path) -> str:
    digest = hashlib.sha256()
    # The include directory's own place is no input: a wheel is installed elsewhere than it was built.
    digest.update("\0".join(flag for flag in _flags() if str(INCLUDE) not in flag).encode())
    for path in [*_own_files(source), *sorted(INCLUDE.rglob("*.h"))]:
        digest.update(b"\0" + path.name.encode() + b"\0" + path.read_bytes())
    digest.update("".join(map(str, _kernel_folders(source))).encode())
    digest.update(keeping(source.read_text(errors="replace")).encode())
    return digest.hexdigest()


def _kernel_folders(source: Path) -> list[Path]:
    """Where `vmlinux.h` is, for a source that includes it without having it beside itself."""
    if (source.parent / "vmlinux.h").exists():
        return []
    if not any(_VMLINUX.search(path.read_text(errors="replace")) for path in _own_files(source)):
        return []
    from bpfleet.loader.headers import vmlinux_folder

    try:
        return [vmlinux_folder()]
    except OSError as error:
        raise CompileError(
            f"vmlinux.h can't be made: {error.strerror}",
            where=str(error.filename),
            remedy="bpftool btf dump file /sys/kernel/btf/vmlinux format c > vmlinux.h, beside the source",
        ) from None


def _own_files(source: Path) -> list[Path]:
    return [source, *sorted(source.parent.glob("*.h"))]


def _compile(source: Path, target: Path, wanted: str) -> None:
    clang = shutil.which("clang")
    if clang is None:
        raise CompileError(
            f"{source.name} must be compiled and there is no clang",
            where=str(source),
            remedy="apt-get install clang libbpf-dev, or install a wheel, which carries the object",
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    kept = keeping(source.read_text(errors="replace"))
    # Another process may compile the same source: each writes its own file, the last rename wins.
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        done = subprocess.run(
            [
                clang,
                *_flags(),
                f"-I{source.parent}",
                *(f"-I{folder}" for folder in _kernel_folders(source)),
                *(("-include", str(source.absolute()), "-x", "c", "-") if kept else (str(source),)),
                "-c",
                "-o",
                str(draft),
            ],
            input=kept,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=120,
            check=False,
        )
        if done.returncode:
            from bpfleet.loader.logs import compiler_errors

            raise CompileError(
                f"clang refused {source.name}",
                where=str(source),
                log=compiler_errors(done.stderr),
                remedy="mend the source at the line named",
            )
        _inputs_file(target).unlink(missing_ok=True)
        draft.rename(target)
        _inputs_file(target).write_text(wanted)
    finally:
        draft.unlink(missing_ok=True)

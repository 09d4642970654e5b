"""The running kernel's types as C, from its BTF, by libbpf's own dumper."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any

from bpfleet.errors import UnsupportedError

__all__ = ["KERNEL_BTF", "write_kernel_types"]

KERNEL_BTF = Path("/sys/kernel/btf/vmlinux")

_pointer, _int, _text = ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p
# Source of the signatures: libbpf 1.1's btf.h.
_LIBBPF: dict[str, tuple[Any, ...]] = {
    "btf__parse_raw": (_pointer, _text),
    "btf__type_cnt": (ctypes.c_uint32, _pointer),
    "btf__free": (None, _pointer),
    "btf_dump__new": (_pointer, _pointer, _pointer, _pointer, _pointer),
    "btf_dump__dump_type": (_int, _pointer, ctypes.c_uint32),
    "btf_dump__free": (None, _pointer),
}
_LIBC: dict[str, tuple[Any, ...]] = {
    "fopen": (_pointer, _text, _text),
    "fclose": (_int, _pointer),
}


def write_kernel_types(path: Path) -> None:
    """Write every type of the running kernel to `path` as C declarations, in an order that compiles.

    Takes about 0.2 s and 3 MB for a distribution's kernel. Raises UnsupportedError where the kernel
    has no BTF or libbpf can't read it; OSError where the file can't be written.
    """
    libbpf, libc = _library("libbpf.so.1", _LIBBPF), _library(None, _LIBC)
    if not KERNEL_BTF.exists():
        raise _unreadable("there is no such file")
    btf = libbpf.btf__parse_raw(bytes(KERNEL_BTF))
    if not btf:
        raise _unreadable(os.strerror(ctypes.get_errno()))
    try:
        file = libc.fopen(bytes(path), b"w")
        if not file:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(path))
        try:
            _dump(libbpf, btf, ctypes.cast(libc.vfprintf, _pointer), file)
        finally:
            closed = libc.fclose(file)
        if closed:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(path))
    finally:
        libbpf.btf__free(btf)
    _add_moved_names(path)


def _add_moved_names(path: Path) -> None:
    """Names that programs know and this kernel gives by macro, where its types tell which."""
    text = path.read_text()
    with path.open("a") as file:
        if "union shortname_store d_shortname;" in text:  # since 6.14
            file.write("#define d_iname d_shortname.string\n")
        if "struct dentry {" in text and "DNAME_INLINE_LEN" not in text:
            file.write("#define DNAME_INLINE_LEN sizeof(((struct dentry *)0)->d_iname)\n")


def _dump(libbpf: ctypes.CDLL, btf: int, print_function: ctypes.c_void_p, file: int) -> None:
    # libbpf prints through `void (*)(void *context, const char *format, va_list)`. C's vfprintf has
    # those very parameters, with a FILE as the context: no va_list ever reaches Python, so this holds
    # on every machine, and 130,000 lines take no call into Python each.
    dump = libbpf.btf_dump__new(btf, print_function, file, None)
    if not dump:
        raise _unreadable(os.strerror(ctypes.get_errno()))
    try:
        for number in range(1, libbpf.btf__type_cnt(btf)):
            result = libbpf.btf_dump__dump_type(dump, number)
            if result:
                raise _unreadable(f"type {number}: {os.strerror(-result)}")
    finally:
        libbpf.btf_dump__free(dump)


def _library(name: str | None, signatures: dict[str, tuple[Any, ...]]) -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(name, use_errno=True)
    except OSError as error:
        raise UnsupportedError(
            f"{name} can't be loaded: {error}", where="loader", remedy="apt-get install libbpf1"
        ) from None
    for function, (result, *arguments) in signatures.items():
        called = getattr(library, function)
        called.restype, called.argtypes = result, arguments
    return library


def _unreadable(reason: str) -> UnsupportedError:
    return UnsupportedError(
        f"the kernel's types can't be read from its BTF: {reason}",
        where=str(KERNEL_BTF),
        remedy="install the running kernel's headers (Debian: apt-get install linux-headers-$(uname -r)), "
        "or run a kernel built with CONFIG_DEBUG_INFO_BTF",
    )

"""libbpf.so.1 through ctypes: the calls that the loader makes, nothing more.

Handles are opaque pointers. libbpf's own messages, the verifier's log among them, are collected by `Log`.
Source of the signatures: libbpf 1.1's `libbpf.h`.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterator
from functools import cache
from typing import Any

from bpfleet.errors import UnsupportedError

__all__ = ["Log", "MapHandle", "Object", "ProgramHandle", "library"]

_PRINT = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
_pointer, _int, _text, _size = ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t
_SIGNATURES: dict[str, tuple[Any, ...]] = {
    # name: (result, argument, …)
    "libbpf_set_print": (_pointer, _PRINT),
    "libbpf_strerror": (_int, _int, _text, _size),
    "bpf_object__open_file": (_pointer, _text, _pointer),
    "bpf_object__load": (_int, _pointer),
    "bpf_object__close": (None, _pointer),
    "bpf_object__next_map": (_pointer, _pointer, _pointer),
    "bpf_object__next_program": (_pointer, _pointer, _pointer),
    "bpf_map__name": (_text, _pointer),
    "bpf_map__fd": (_int, _pointer),
    "bpf_map__type": (_int, _pointer),
    "bpf_map__map_flags": (ctypes.c_uint32, _pointer),
    "bpf_map__is_internal": (ctypes.c_bool, _pointer),
    "bpf_map__initial_value": (_pointer, _pointer, ctypes.POINTER(_size)),
    "bpf_map__key_size": (ctypes.c_uint32, _pointer),
    "bpf_map__value_size": (ctypes.c_uint32, _pointer),
    "bpf_map__set_type": (_int, _pointer, _int),
    "bpf_map__set_key_size": (_int, _pointer, ctypes.c_uint32),
    "bpf_map__set_value_size": (_int, _pointer, ctypes.c_uint32),
    "bpf_map__set_max_entries": (_int, _pointer, ctypes.c_uint32),
    "bpf_map__set_map_flags": (_int, _pointer, ctypes.c_uint32),
    "bpf_map__reuse_fd": (_int, _pointer, _int),
    "bpf_map__attach_struct_ops": (_pointer, _pointer),
    "bpf_program__name": (_text, _pointer),
    "bpf_program__section_name": (_text, _pointer),
    "bpf_program__fd": (_int, _pointer),
    "bpf_program__set_type": (_int, _pointer, _int),
    "bpf_program__set_expected_attach_type": (_int, _pointer, _int),
    "bpf_program__attach": (_pointer, _pointer),
    "bpf_program__attach_iter": (_pointer, _pointer, _pointer),
    "bpf_program__attach_tracepoint": (_pointer, _pointer, _text, _text),
    "bpf_program__attach_raw_tracepoint": (_pointer, _pointer, _text),
    "bpf_program__attach_kprobe_opts": (_pointer, _pointer, _text, _pointer),
    "bpf_program__attach_kprobe_multi_opts": (_pointer, _pointer, _text, _pointer),
    "bpf_program__attach_ksyscall": (_pointer, _pointer, _text, _pointer),
    "bpf_program__attach_usdt": (_pointer, _pointer, _int, _text, _text, _text, _pointer),
    "bpf_program__attach_xdp": (_pointer, _pointer, _int),
    "bpf_program__attach_cgroup": (_pointer, _pointer, _int),
    "bpf_program__set_attach_target": (_int, _pointer, _int, _text),
    "bpf_program__autoload": (ctypes.c_bool, _pointer),
    "bpf_program__set_autoload": (_int, _pointer, ctypes.c_bool),
    "bpf_link__fd": (_int, _pointer),
}


@cache
def library() -> ctypes.CDLL:
    """libbpf.so.1 with its signatures; raises UnsupportedError where it is missing."""
    try:
        lib = ctypes.CDLL("libbpf.so.1", use_errno=True)
    except OSError as error:
        raise UnsupportedError(
            f"libbpf.so.1 can't be loaded: {error}", where="loader", remedy="apt-get install libbpf1"
        ) from None
    for name, (result, *arguments) in _SIGNATURES.items():
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    return lib


_LONGEST_LINE = 32 << 20


class Log:
    """Collects what libbpf says while it is entered. libbpf has one print function per process."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        # A verifier's log comes whole, and its end is what tells. Fresh from mmap(2), memory is taken only as
        # far as it is written to.
        self._memory = mmap.mmap(-1, _LONGEST_LINE)
        self._buffer = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self._print = _PRINT(self._take)
        self._vsnprintf = ctypes.CDLL(None).vsnprintf
        self._vsnprintf.argtypes = [_pointer, _size, _text, _pointer]

    def _take(self, level: int, form: bytes, arguments: int) -> int:
        if level > 1:  # LIBBPF_DEBUG
            return 0
        # va_list is passed by reference on 64-bit machines.
        self._vsnprintf(self._buffer, _LONGEST_LINE, form, arguments)
        self._lines.append(ctypes.string_at(self._buffer).decode("utf-8", "replace"))
        return 0

    def __enter__(self) -> Log:
        library().libbpf_set_print(self._print)
        return self

    def __exit__(self, *error: object) -> None:
        library().libbpf_set_print(_PRINT())

    @property
    def text(self) -> str:
        """All that was said."""
        return "".join(self._lines)


class MapHandle:
    """One map of an open object."""

    def __init__(self, handle: int) -> None:
        self.handle = handle
        self.name: str = library().bpf_map__name(handle).decode()
        if library().bpf_map__is_internal(handle):
            # libbpf names it after the object; the section's name is what the source knows.
            self.name = self.name[self.name.index(".") :]

    @property
    def fd(self) -> int:
        """The map's fd once the object is loaded; negative for one that was not made."""
        fd: int = library().bpf_map__fd(self.handle)
        return fd

    @property
    def type(self) -> int:
        """The kernel's `enum bpf_map_type`."""
        kind: int = library().bpf_map__type(self.handle)
        return kind

    @property
    def flags(self) -> int:
        """`BPF_F_…` that it is made with."""
        flags: int = library().bpf_map__map_flags(self.handle)
        return flags

    @property
    def sizes(self) -> tuple[int, int]:
        """Bytes of a key and of a value."""
        return library().bpf_map__key_size(self.handle), library().bpf_map__value_size(self.handle)

    def initial_value(self) -> memoryview | None:
        """The bytes of a section of globals before load, to be changed in place."""
        size = _size()
        address = library().bpf_map__initial_value(self.handle, ctypes.byref(size))
        if not address:
            return None
        return memoryview((ctypes.c_char * size.value).from_address(address)).cast("B")

    def set(self, **sizes: int) -> None:
        """Set type, key_size, value_size, max_entries, map_flags or reuse_fd before load."""
        for what, number in sizes.items():
            function = getattr(library(), f"bpf_map__{'' if what == 'reuse_fd' else 'set_'}{what}")
            result = function(self.handle, number)
            if result:
                raise OSError(-result, f"bpf_map {self.name}: {what}={number}: {os.strerror(-result)}")


class ProgramHandle:
    """One program of an open object."""

    def __init__(self, handle: int) -> None:
        self.handle = handle
        self.name: str = library().bpf_program__name(handle).decode()
        self.section: str = library().bpf_program__section_name(handle).decode()

    @property
    def fd(self) -> int:
        """The program's fd once the object is loaded; negative for one that was not loaded."""
        fd: int = library().bpf_program__fd(self.handle)
        return fd

    @property
    def autoload(self) -> bool:
        """Whether it is brought into the kernel with the object."""
        wanted: bool = library().bpf_program__autoload(self.handle)
        return wanted

    def set_autoload(self, wanted: bool) -> None:
        """Before load: whether the program is brought into the kernel with the object."""
        library().bpf_program__set_autoload(self.handle, wanted)


class Object:
    """A `.bpf.o` that libbpf has opened; plain OSError where libbpf refuses."""

    def __init__(self, path: str) -> None:
        handle = library().bpf_object__open_file(path.encode(), None)
        if not handle:
            code = ctypes.get_errno()
            raise OSError(code, _strerror(code), path)
        self.handle: int = handle

    def maps(self) -> Iterator[MapHandle]:
        """Every map, sections of globals included."""
        handle = library().bpf_object__next_map(self.handle, None)
        while handle:
            yield MapHandle(handle)
            handle = library().bpf_object__next_map(self.handle, handle)

    def map(self, name: str) -> MapHandle:
        """The map or section of that name; KeyError where there is none."""
        for one in self.maps():
            if one.name == name:
                return one
        raise KeyError(name)

    def programs(self) -> Iterator[ProgramHandle]:
        """Every program."""
        handle = library().bpf_object__next_program(self.handle, None)
        while handle:
            yield ProgramHandle(handle)
            handle = library().bpf_object__next_program(self.handle, handle)

    def close(self) -> None:
        """Free it, with the fds that were not duplicated."""
        library().bpf_object__close(self.handle)

    def load(self) -> None:
        """Bring maps and programs into the kernel."""
        result = library().bpf_object__load(self.handle)
        if result:
            raise OSError(-result, _strerror(-result))


def _strerror(code: int) -> str:
    """In words; libbpf has errors of its own, from 4000 on."""
    text = ctypes.create_string_buffer(128)
    library().libbpf_strerror(code, text, len(text))
    return text.value.decode()

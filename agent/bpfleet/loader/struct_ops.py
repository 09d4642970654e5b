"""A program's functions in the place of the kernel's own: an object's `.struct_ops` maps.

A link holds such a map in its place, and ends with its last fd like any other. Kernels before 6.4 have no
such links: there a map stays registered until somebody takes it out, so it would outlive the agent.
"""

from __future__ import annotations

import ctypes
import errno
import os

from bpfleet.kernel import MAP_TYPES, link_create
from bpfleet.loader.libbpf import Log, MapHandle, Object, ProgramHandle, library
from bpfleet.loader.linking import Links, refused

__all__ = ["ask_for_links", "attach_struct_ops"]

_ATTACH_TYPE = 44  # BPF_STRUCT_OPS of enum bpf_attach_type
_F_LINK = 1 << 13
_FIRST = (6, 4)


def ask_for_links(opened: Object) -> None:
    """Before load: have the kernel make maps that a link can hold, where it knows them."""
    if _has_links():
        for one in _maps(opened):
            one.set(map_flags=one.flags | _F_LINK)


def attach_struct_ops(opened: Object, program: ProgramHandle) -> Links:
    """Put every `.struct_ops` map of a loaded object in its place; `program` is one of its functions.

    Raises AttachError.
    """
    maps = _maps(opened)
    place = ", ".join(f"struct_ops {one.name}" for one in maps) or "struct_ops"
    if not _has_links():
        raise refused(
            program,
            place,
            "run it on Linux 6.4 or later",
            reason="on this kernel it would stay in place after the agent's end",
        )
    links: list[int] = []
    for one in maps:
        # libbpf 1.1 knows no such link. It fills in the functions; what it would register the link does.
        ctypes.set_errno(0)
        with Log() as log:
            filled = library().bpf_map__attach_struct_ops(one.handle)
        code = 0 if filled else ctypes.get_errno()
        if filled:
            try:
                links.append(link_create(one.fd, 0, _ATTACH_TYPE))
                continue
            except OSError as error:
                code = error.errno or 0
        for link in links:
            os.close(link)
        remedy = (
            "another of the same name is there"
            if code == errno.EEXIST
            else "has it all the functions, and the name, that the kernel asks for?"
        )
        raise refused(program, f"struct_ops {one.name}", remedy, code=code, log=log.text)
    return tuple(links)


def _maps(opened: Object) -> list[MapHandle]:
    return [one for one in opened.maps() if MAP_TYPES[one.type] == "struct_ops"]


def _has_links() -> bool:
    major, minor = os.uname().release.split(".")[:2]
    return (int(major), int(minor)) >= _FIRST

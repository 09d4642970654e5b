"""Local storage of tasks, sockets and cgroups: it has no keys, so an iterator of our own tells its rows."""

from __future__ import annotations

import ctypes
import os
import struct

from bpfleet.errors import UnsupportedError
from bpfleet.kernel import MapInfo
from bpfleet.loader.compile import object_for
from bpfleet.loader.knobs import write_knobs
from bpfleet.loader.libbpf import Log, MapHandle, Object, library
from bpfleet.loader.logs import telling_lines
from bpfleet_bpf import STORAGE

__all__ = ["load_storage_iterator"]


_DESCENDANTS = 2  # BPF_CGROUP_ITER_DESCENDANTS_PRE; without an fd or id, of the root


def load_storage_iterator(map_fd: int, info: MapInfo) -> int:
    """The link of an iterator over that map's values; raises UnsupportedError where there can be none."""
    path = object_for(STORAGE[info.type_name])
    log = Log()
    try:
        with log:
            program = Object(str(path))
            write_knobs(program, path, {"value_size": info.value_size})
            for target in _targets(program):
                target.set(value_size=info.value_size, reuse_fd=map_fd)
            program.load()
            link = _attach(program, map_fd, info.type_name)
    except OSError as error:
        raise UnsupportedError(
            f"no iterator goes through this {info.type_name} map: {error.strerror or error}",
            log=telling_lines(log.text),
            remedy="bpfleet doctor shows what this kernel lacks; values with a lock, timer or kernel pointer "
            "can't be read this way",
        ) from None
    finally_fd = os.dup(link)
    program.close()
    return finally_fd


def _targets(program: Object) -> list[MapHandle]:
    return [one for one in program.maps() if one.name == "target"]


def _attach(program: Object, map_fd: int, kind: str) -> int:
    """The fd of the link; OSError where the kernel refuses."""
    what = struct.pack("=I12x", map_fd) if kind == "sk_storage" else struct.pack("=IIQ", _DESCENDANTS, 0, 0)
    wanted = ctypes.create_string_buffer(what, len(what))
    # struct bpf_iter_attach_opts: its size, a pointer to union bpf_iter_link_info, the size of that.
    options = ctypes.create_string_buffer(struct.pack("=QQI4x", 24, ctypes.addressof(wanted), len(what)), 24)
    handle = next(iter(program.programs())).handle
    place = None if kind == "task_storage" else options
    link = library().bpf_program__attach_iter(handle, place)
    if not link:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    fd: int = library().bpf_link__fd(link)
    return fd

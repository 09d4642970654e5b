"""What the worker needs to tell stacks: the maps that fields name, and ways to symbols that root opens."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from bpfleet import kernel
from bpfleet.errors import SchemaMismatch
from bpfleet.layout import Layout
from bpfleet.loader.backend import CompiledMap
from bpfleet.loader.compile import object_for
from bpfleet.loader.libbpf import Log, Object, library
from bpfleet.loader.logs import telling_lines
from bpfleet.protocol import LoadedSymbols
from bpfleet.schema import Meaning
from bpfleet_bpf import MAPPINGS

__all__ = ["named_stack_maps", "open_symbols", "raw_layouts"]

_BUILD_IDS = 1 << 5  # BPF_F_STACK_BUILD_ID
_KALLSYMS = Path("/proc/kallsyms")


def named_stack_maps(
    collector: str, layouts: Mapping[str, tuple[Layout, Layout]], compiled: Mapping[str, CompiledMap]
) -> dict[str, CompiledMap]:
    """The maps that stack ids are of, by name; raises SchemaMismatch where one is no map of stacks, or the
    field that is to name the process is not there."""
    found = {}
    for map_name, layout in layouts.items():
        leaves = [leaf for side in layout for leaf in side.leaves]
        for leaf in leaves:
            if not leaf.stack:
                continue
            where = f"collector {collector!r}, map {map_name!r}, field {leaf.name!r}"
            there = [name for name, one in compiled.items() if _holds_stacks(one)]
            if leaf.stack not in there:
                raise SchemaMismatch(
                    f"its stacks are said to be in map {leaf.stack!r}, which is no map of type stack_trace",
                    where=where,
                    remedy=f"the program's maps of that type are: {', '.join(there) or 'none'}",
                )
            if any(one.name == "stack" for one in leaves):
                raise SchemaMismatch(
                    "the map has a field `stack`, which is to be the column that names the stack's text",
                    where=where,
                    remedy="call the field something else, such as `stack_id`",
                )
            if leaf.process and leaf.process not in [one.name for one in leaves]:
                raise SchemaMismatch(
                    f"its process is said to be in field {leaf.process!r}, which the map does not have",
                    where=where,
                    remedy=f"the map's fields are: {', '.join(one.name for one in leaves)}",
                )
            found[leaf.stack] = compiled[leaf.stack]
    return found


def _holds_stacks(one: CompiledMap) -> bool:
    return kernel.map_info(one.fd).type_name == "stack_trace"


def open_symbols(add: Callable[[int], int]) -> LoadedSymbols:
    """Open, as root, what names are learned by; `add` takes an fd to be sent and gives its index.

    A kernel that lacks one costs names only."""
    found = LoadedSymbols(kernel_fd=None, mappings_fd=None, wanted_fd=None, refused="")
    refused = []
    try:
        # What it shows is decided by who opens it.
        found.kernel_fd = add(os.open(_KALLSYMS, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        refused.append(f"{_KALLSYMS}: {error.strerror}")
    log = Log()
    try:
        with log:
            program = Object(str(object_for(MAPPINGS)))
            program.load()
            attached = library().bpf_program__attach(next(iter(program.programs())).handle)
            if not attached:
                raise OSError(0, "it can't be attached")
        found.mappings_fd = add(os.dup(library().bpf_link__fd(attached)))
        found.wanted_fd = add(os.dup(program.map("wanted").fd))
    except OSError as error:
        told = f"{error.strerror} {telling_lines(log.text)}".strip()
        refused.append(f"the program that tells processes' mappings: {told}")
    found.refused = "; ".join(refused)
    return found


def raw_layouts(info: kernel.MapInfo, key: Layout, value: Layout) -> tuple[Layout, Layout]:
    """For a map of stacks whose types tell no more than sizes, as is usual: ids and arrays of addresses."""
    ids, addresses = key.leaves[0], value.leaves[0]
    if len(value.leaves) == 1 and not ids.name:
        key = replace(key, leaves=(replace(ids, name="id", meaning=Meaning.LABEL),))
    if len(value.leaves) == 1 and not addresses.name and not info.flags & _BUILD_IDS:
        told = replace(
            addresses, name="addresses", base="u64", count=info.value_size // 8, meaning=Meaning.LABEL
        )
        value = replace(value, leaves=(told,))
    return key, value

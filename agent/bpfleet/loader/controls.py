"""What of a loaded collector user space may look at or change while it runs: variables, and control maps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from bpfleet import kernel
from bpfleet.errors import ConfigError
from bpfleet.layout import Layout, Leaf
from bpfleet.loader.backend import CompiledMap
from bpfleet.loader.counters import is_told_as_loss
from bpfleet.loader.entries import SETTABLE, seed, types_of
from bpfleet.loader.knobs import is_data
from bpfleet.protocol import Load, LoadedControl

__all__ = ["tell"]


def tell(
    request: Load,
    compiled: Mapping[str, CompiledMap],
    layouts: Mapping[str, tuple[Layout, Layout]],
    knobs: frozenset[str],
    add: Callable[[int], int],
) -> tuple[LoadedControl, ...]:
    """Put the entries that the collector wants into their maps; returns what can be told later: sections of
    variables and control maps. `add` numbers their fds.

    Raises ConfigError for a control map that is not there or takes no entries.
    """
    seed(request.collector, request.entries, compiled, layouts)
    found = tuple(_found(request, compiled, layouts, knobs))
    for one in found:
        one.fd = add(one.fd)
    return found


def _found(
    request: Load,
    compiled: Mapping[str, CompiledMap],
    layouts: Mapping[str, tuple[Layout, Layout]],
    knobs: frozenset[str],
) -> Iterator[LoadedControl]:
    kinds = {name: one.kind for name, one in compiled.items()}
    for name, one in compiled.items():
        if one.value is None:
            continue
        if is_data(name):
            told = {leaf.offset: leaf for leaf in layouts[name][1].leaves} if name in layouts else {}
            leaves = [
                replace(leaf, meaning=told[leaf.offset].meaning) if leaf.offset in told else leaf
                for leaf in one.value.leaves
                if not is_told_as_loss(leaf.name, kinds, leaf.ctype)
            ]
        elif name.startswith(".rodata"):
            leaves = [leaf for leaf in one.value.leaves if _variable(leaf) in knobs]
        else:
            continue
        if leaves:
            yield _control(one, Layout(0, ()), Layout(one.value.size, tuple(leaves)))
    for name in _control_maps(request):
        found = compiled.get(name)
        if found is None or kernel.map_info(found.fd).type_name not in SETTABLE:
            raise ConfigError(
                f"{name!r} can't be a control map",
                where=f"collector {request.collector!r}, map {name!r}",
                remedy=f"name a map of the program that is a {', '.join(sorted(SETTABLE))}",
            )
        yield _control(found, *types_of(found, layouts))


def _control(one: CompiledMap, key: Layout, value: Layout) -> LoadedControl:
    return LoadedControl(name=one.name, key=key, value=value, fd=one.fd)


def _control_maps(request: Load) -> list[str]:
    declared = [one.name for one in request.maps if one.control]
    return declared + [name for name, words in request.words.items() if words.control]


def _variable(leaf: Leaf) -> str:
    return leaf.name.partition(".")[0]

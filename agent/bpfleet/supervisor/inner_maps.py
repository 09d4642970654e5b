"""Opening inner maps for the worker: by id takes CAP_SYS_ADMIN, which the worker does not have.

It gets a map only while a held map of maps has it, so an id alone opens nothing.
"""

from __future__ import annotations

import ctypes
import struct
from contextlib import suppress
from typing import Any

from bpfleet import kernel
from bpfleet.supervisor.holdings import Holdings

__all__ = ["MOST_AT_ONCE", "open_inner"]

MOST_AT_ONCE = 1024


def open_inner(holdings: Holdings, request: dict[str, Any]) -> tuple[dict[str, Any], list[int]]:
    """The answer to a request, and the fds for it, to be closed once they are sent.

    Ids that the map does not hold (any more) are left out. Raises ValueError where it makes no sense."""
    collector, name = str(request["collector"]), str(request["map"])
    wanted = {int(number) for number in request["ids"]}
    if len(wanted) > MOST_AT_ONCE:
        raise ValueError(f"{len(wanted)} inner maps at once")
    held = holdings.map_of(collector, name)
    opened: dict[int, int] = {}
    if held is not None and kernel.map_info(held[1]).type_name in kernel.NESTING_TYPES:
        for number in wanted & _inner_ids(held[1]):
            with suppress(OSError):
                opened[number] = kernel.map_by_id(number)
    answer = {"op": "inner", "collector": collector, "map": name, "ids": list(opened)}
    return answer, list(opened.values())


def _inner_ids(outer: int) -> set[int]:
    """The ids that the map of maps holds now."""
    info = kernel.map_info(outer)
    here, following = (ctypes.create_string_buffer(info.key_size) for _ in range(2))
    value = ctypes.create_string_buffer(4)
    found = set()
    more = kernel.next_key(outer, 0, ctypes.addressof(following))
    # A bound: where keys come and go, the kernel starts over.
    for _ in range(2 * info.max_entries + 64):
        if not more:
            break
        here, following = following, here
        if kernel.lookup(outer, ctypes.addressof(here), ctypes.addressof(value)):
            found.add(struct.unpack("=I", value.raw)[0])
        more = kernel.next_key(outer, ctypes.addressof(here), ctypes.addressof(following))
    return found

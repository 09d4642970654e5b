"""Names that the running kernel gives to numbers: its enums, from its own BTF."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from bpfleet.btf import Btf, Kind, parse
from bpfleet.btf_types import Type
from bpfleet.errors import ObjectError

__all__ = ["KERNEL_BTF", "kernel_enum"]

KERNEL_BTF = Path("/sys/kernel/btf/vmlinux")


@lru_cache(maxsize=64)
def kernel_enum(name: str, path: Path = KERNEL_BTF) -> Mapping[int, str]:
    """The names of the running kernel's `enum name`, by value; empty where it has no such enum, or no BTF.

    An enum without a name is found by any name in it (`HI_SOFTIRQ`). Of two names for one value it is the
    first. Reading takes a quarter of a second (5 MB), once for each enum: so ask at load, not in a tick.
    """
    try:
        types = parse(path.read_bytes(), str(path))
        found = types.find(name, Kind.ENUM) or types.find(name, Kind.ENUM64) or _nameless(types, name)
        if found is None:
            return {}
        named: dict[int, str] = {}
        for one in types.enumerators(found):
            # Without the flag it has no sign. (pahole before 1.24 never set it: then -1 is 4294967295.)
            unsigned = one.value < 0 and not found.flag and found.kind is Kind.ENUM
            named.setdefault(one.value + (1 << 32 if unsigned else 0), one.name)
    except (OSError, ObjectError):
        return {}
    return named


def _nameless(types: Btf, name: str) -> Type | None:
    for one in types.of_kind(Kind.ENUM, Kind.ENUM64):
        if not one.name and any(inside.name == name for inside in types.enumerators(one)):
            return one
    return None

"""How variables and entries are written on the command line: `NAME.VARIABLE`, `NAME.MAP[KEY]`, `…=VALUE`."""

from __future__ import annotations

import re
from typing import Any

from bpfleet.errors import ConfigError

__all__ = ["place", "request_of"]

_PLACE = re.compile(r"([a-z][a-z0-9_-]*)(?:\.([A-Za-z_]\w*(?:\.\w+)*)(?:\[(.*)\])?)?", re.DOTALL)
_ASSIGNMENT = re.compile(r"([a-z][a-z0-9_-]*)\.([A-Za-z_]\w*(?:\.\w+)*)(?:\[(.*?)\])?=(.*)", re.DOTALL)


def place(text: str) -> dict[str, Any]:
    """`NAME`, `NAME.VARIABLE` or `NAME.MAP[KEY]` as members of a request; raises ConfigError."""
    match = _PLACE.fullmatch(text)
    if match is None:
        raise ConfigError(
            f"{text!r} names no variable",
            where="the command line",
            remedy="write NAME.VARIABLE or NAME.MAP[KEY], NAME being a collector",
        )
    found = zip(("collector", "name", "key"), match.groups(), strict=True)
    return {name: value for name, value in found if value is not None}


def request_of(text: str) -> dict[str, Any]:
    """`NAME.VARIABLE=VALUE` or `NAME.MAP[KEY]=VALUE` as a request to set it; raises ConfigError."""
    match = _ASSIGNMENT.fullmatch(text)
    if match is None:
        raise ConfigError(
            f"{text!r} sets nothing",
            where="the command line",
            remedy="write NAME.VARIABLE=VALUE or NAME.MAP[KEY]=VALUE, such as execve.min_us=100",
        )
    found = zip(("collector", "name", "key", "value"), match.groups(), strict=True)
    return {"do": "set"} | {name: value for name, value in found if value is not None}

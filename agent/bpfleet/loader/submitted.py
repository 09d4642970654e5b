"""Which structs a source submits as events: clang leaves their types out of an object that has them on the
stack or behind a local pointer only, so a source is compiled with a global pointer to each.

Read by regular expressions, and not as a compiler would: a call inside a macro is not seen, and a map with
events of two types is left alone. Nothing goes wrong then: its events are bytes.

Standard library only: the wheel's build hook imports this module.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = ["KEPT", "keeping", "submitted"]

KEPT = "unused_event_of_"
"""How the pointers' names begin; what follows is the map. A variable that is `unused` is no telemetry."""

_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
_RESERVED = re.compile(
    r"(?P<variable>\w+)\s*=\s*(?:\([^()]*\)\s*)?bpf_ringbuf_reserve\s*\(\s*&\s*(?P<map>\w+)\s*,\s*"
    r"sizeof\s*\(?\s*(?:struct\s+(?P<struct>\w+))?"
)
_OUTPUT = re.compile(r"bpf_ringbuf_output\s*\(\s*&\s*(?P<map>\w+)\s*,\s*&?\s*(?P<variable>\w+)\s*,")
_PERF_OUTPUT = re.compile(
    r"bpf_perf_event_output\s*\(\s*\w+\s*,\s*&\s*(?P<map>\w+)\s*,[^,;]+,\s*&?\s*(?P<variable>\w+)\s*,"
)
_DECLARED = r"struct\s+(\w+)\b(?:(?!struct)[^;(){{}}=])*?\b{}\b"


def submitted(source: str) -> dict[str, str]:
    """Maps, and the name of the struct that the C text `source` submits to each, where it is but one."""
    text = _COMMENT.sub(" ", source)
    found: dict[str, set[str]] = {}
    for call in _calls(text):
        said = call.groupdict().get("struct")
        structs = {said} if said else set(re.findall(_DECLARED.format(call["variable"]), text))
        found.setdefault(call["map"], set()).update(structs)
    return {name: structs.pop() for name, structs in found.items() if len(structs) == 1}


def keeping(source: str) -> str:
    """C text that keeps those structs' types, to stand behind the source; empty where there is none."""
    lines = (
        f"const struct {struct} *{KEPT}{name} __attribute__((unused));\n"
        for name, struct in submitted(source).items()
    )
    return "".join(lines)


def _calls(text: str) -> Iterator[re.Match[str]]:
    for pattern in (_RESERVED, _OUTPUT, _PERF_OUTPUT):
        yield from pattern.finditer(text)

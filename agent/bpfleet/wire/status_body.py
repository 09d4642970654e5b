"""The body of a status record: what its known members must be. Unknown members are left alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bpfleet.errors import WireError
from bpfleet.wire.fields import Fields

__all__ = ["checked_body"]

_HEAD = frozenset(["v", "kind", "agent", "host", "boot", "run", "seq", "t1", "wall_offset"])

_Members = Mapping[str, Callable[[Fields, str], object]]


def _all(members: _Members) -> Callable[[Fields, str], None]:
    """An array of maps, each with a `name` and the `members` that it has."""

    def check(fields: Fields, key: str) -> None:
        for inner in fields.mappings(key):
            inner.name("name")
            _check(inner, members)

    return check


def _with_state(members: _Members) -> Callable[[Fields, str], None]:
    """As `_all`, each with a `state` too."""
    each = _all(members)

    def check(fields: Fields, key: str) -> None:
        each(fields, key)
        for inner in fields.mappings(key):
            inner.text("state", 64)

    return check


def _error(fields: Fields, key: str) -> None:
    _check(fields.mapping(key), dict.fromkeys(("error", "what", "where", "remedy", "log"), Fields.text))


def _check(fields: Fields, members: _Members) -> None:
    """Of the members, those that are there (nil is as good as absent)."""
    for key, check in members.items():
        if fields.has(key):
            check(fields, key)


_SOFTWARE: _Members = {
    **dict.fromkeys(("version", "python", "kernel", "machine"), Fields.text),
    **dict.fromkeys(("pid", "pss_bytes"), Fields.integer),
    **dict.fromkeys(("uptime_s", "cpu_s"), Fields.number),
}
_PROGRAM: _Members = {"attached": Fields.text, "error": Fields.text}


def _texts(fields: Fields, key: str) -> None:
    for value in fields.array(key):
        if type(value) is not str:
            raise fields.wrong(key, "an array of text")


_LADDER: _Members = {
    "taken": Fields.text,
    **dict.fromkeys(("rung", "rungs"), Fields.integer),
    "refused": _texts,
}
_MAP: _Members = {
    **dict.fromkeys(("type", "method"), Fields.text),
    "why_not": Fields.texts,
    **dict.fromkeys(
        ("rows", "entries", "max_entries", "reads", "read_ns", "bytes", "memory_bytes"), Fields.integer
    ),
    "losses": Fields.counts,
}
_CHANGE: _Members = {
    **dict.fromkeys(("what", "value"), Fields.text),
    **dict.fromkeys(("at", "uid"), Fields.integer),
}


def _changes(fields: Fields, key: str) -> None:
    for inner in fields.mappings(key):
        _check(inner, _CHANGE)


_COLLECTOR: _Members = {
    "version": Fields.text,
    "error": _error,
    "generation": Fields.integer,
    "interval_s": Fields.number,
    "programs": _all(_PROGRAM),
    "ladders": _all(_LADDER),
    "maps": _all(_MAP),
    "changed": Fields.integer,
    "changes": _changes,
}
_SPOOL: _Members = {
    **dict.fromkeys(("records", "bytes", "dropped"), Fields.integer),
    "oldest_s": Fields.number,
}


def _spool(fields: Fields, key: str) -> None:
    _check(fields.mapping(key), _SPOOL)


_SINK: _Members = {
    "type": Fields.text,
    "spool": _spool,
    "error": _error,
    **dict.fromkeys(("queued", "queued_bytes", "written", "dropped"), Fields.integer),
}


def checked_body(fields: Fields) -> dict[str, Any]:
    """All of a status but its head, known members checked; raises WireError naming the one that is wrong."""
    _check(fields.mapping("software"), _SOFTWARE)
    _with_state(_COLLECTOR)(fields, "collectors")
    _with_state(_SINK)(fields, "sinks")
    fields.texts("labels")
    body = {key: value for key, value in fields.record.items() if key not in _HEAD}
    _refuse_bytes(body, fields.where)
    return body


def _refuse_bytes(value: Any, where: str) -> None:
    """A body is plain data that can be shown as JSON; how deep it goes was checked by the reader."""
    if isinstance(value, memoryview):
        raise WireError("a status holds no bin", where=where)
    if isinstance(value, dict):
        for item in value.values():
            _refuse_bytes(item, where)
    elif isinstance(value, list):
        for item in value:
            _refuse_bytes(item, where)

"""Records as plain data, for JSON lines."""

from __future__ import annotations

from typing import Any

import msgspec

from bpfleet.errors import WireError
from bpfleet.wire import Gap, Record, Schema, Snapshot, Status

__all__ = ["json_line", "to_json"]

_DEEPEST = 32


def to_json(record: Record) -> dict[str, Any]:
    """The record as dicts, lists, text and numbers; `kind` comes first.

    A snapshot has its `rows` as dicts by column name: text up to its first NUL, `bytes` as hex. Raises
    WireError for a status whose body is nested deeper than anything an agent sends.
    """
    if isinstance(record, Snapshot):
        return _snapshot(record)
    if isinstance(record, Schema):
        return _schema(record)
    if isinstance(record, Gap):
        return _gap(record)
    return _status(record)


def json_line(record: Record) -> bytes:
    """`to_json` as one line of UTF-8, with its newline. A float that is no number becomes null."""
    return msgspec.json.encode(to_json(record)) + b"\n"


def _snapshot(record: Snapshot) -> dict[str, Any]:
    return {
        "kind": "snapshot",
        "collector": record.schema.collector,
        "map": record.schema.map,
        "host": record.origin.host,
        "seq": record.seq,
        "t1": record.t1,
        "rows": record.to_rows(),
        "agent": record.origin.agent,
        "boot": record.origin.boot,
        "run": record.origin.run,
        "generation": record.generation,
        "version": record.schema.version,
        "t0": record.t0,
        "wall_offset": record.wall_offset,
        "method": record.method,
        "complete": record.complete,
        "losses": dict(record.losses),
        "entries": record.entries,
        "max_entries": record.max_entries,
        "part": record.part,
        "parts": record.parts,
        "schema": record.schema.id,
    }


def _schema(record: Schema) -> dict[str, Any]:
    return {
        "kind": "schema",
        "collector": record.collector,
        "map": record.map,
        "version": record.version,
        "id": record.id,
        "help": record.help,
        "columns": [column.to_plain() for column in record.columns],
    }


def _gap(record: Gap) -> dict[str, Any]:
    return {
        "kind": "gap",
        "host": record.origin.host,
        "seq": record.seq,
        "t1": record.t1,
        "first": record.first,
        "last": record.last,
        "count": record.count,
        "reason": record.reason,
        "sink": record.sink,
        "agent": record.origin.agent,
        "boot": record.origin.boot,
        "run": record.origin.run,
    }


def _status(record: Status) -> dict[str, Any]:
    head = {
        "kind": "status",
        "host": record.origin.host,
        "seq": record.seq,
        "t1": record.t1,
        "agent": record.origin.agent,
        "boot": record.origin.boot,
        "run": record.origin.run,
        "wall_offset": record.wall_offset,
    }
    # The head wins: a body from a stranger can't pass for another record.
    return head | {key: _plain(value, 0) for key, value in record.body.items() if key not in head}


def _plain(value: Any, depth: int) -> Any:
    if depth > _DEEPEST:
        raise WireError(f"a status nested more than {_DEEPEST} deep", where="status")
    if isinstance(value, dict):
        return {_key(key): _plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, depth + 1) for item in value]
    return value.hex() if isinstance(value, bytes) else value


def _key(key: Any) -> str:
    return key.hex() if isinstance(key, bytes) else str(key)

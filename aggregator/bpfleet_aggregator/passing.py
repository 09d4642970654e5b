"""What a shard and the process that stores tell each other: agents' messages up, answers down, in batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

__all__ = ["Answer", "Orders", "Passed", "Plan", "decode_orders", "decode_passed", "decode_plan", "encode"]


class Passed(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One message of an agent, as `router.Arrived` has it."""

    peer: bytes
    parts: tuple[bytes, ...]
    key: str = ""
    address: str = ""


class Answer(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One message to an agent, encoded."""

    peer: bytes
    head: bytes


class Orders(msgspec.Struct, frozen=True, array_like=True):
    """What a shard is to do."""

    answers: Sequence[Answer] = ()
    admitted: Sequence[str] | None = None
    """The keys that may connect from now on; None: as before."""
    ends: bool = False


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a shard is told when it starts, on its stdin."""

    parent: int
    """The pid of the process that stores."""
    up: str
    """Where the process that stores listens for it: `ipc://PATH`."""
    fds: Sequence[int]
    """Listening TCP sockets that it has inherited."""
    paths: Mapping[str, int]
    """Listening Unix sockets that it has inherited, by endpoint."""
    window: int
    max_size: int
    io_threads: int
    secret: str
    """The aggregator's secret key; "" without CURVE."""
    admitted: Sequence[str]
    """The keys that may connect."""


encode = msgspec.msgpack.encode
decode_passed = msgspec.msgpack.Decoder(list[Passed]).decode
decode_orders = msgspec.msgpack.Decoder(Orders).decode
decode_plan = msgspec.msgpack.Decoder(Plan).decode

"""What an agent and an aggregator say to each other; `docs/delivery.md` specifies it.

    agent → aggregator   HELLO, DATA …, BYE
    aggregator → agent   WELCOME, ACK …, NACK …, BYE

A message is one ZeroMQ message: its first part is a msgpack map with `v` (the protocol's version) and
`op`; DATA has the record as its second part. Decoding is strict: what is missing, of another type or out of
its range is a WireError; a key that is not known is ignored, so that a later release may say more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import Meta

from bpfleet.errors import WireError

__all__ = ["PROTOCOL", "Ack", "Bye", "Data", "Hello", "Message", "Nack", "Welcome", "decode", "encode"]

PROTOCOL = 1
"""Version of the delivery protocol."""

HEAD_BYTES = 4096
"""The longest first part of a message."""

Name = Annotated[str, Meta(min_length=1, max_length=64)]
REASON_LENGTH = 512
Reason = Annotated[str, Meta(max_length=REASON_LENGTH)]
U64 = Annotated[int, Meta(ge=0)]
Count = Annotated[int, Meta(ge=0, le=1 << 20)]
Bytes = Annotated[int, Meta(ge=0, le=1 << 30)]


class _Said(msgspec.Struct, frozen=True, kw_only=True):
    op: ClassVar[str]


class Hello(_Said, frozen=True, kw_only=True):
    """Who speaks, and which records it still holds."""

    op: ClassVar[str] = "hello"
    agent: Name
    """The agent's id."""
    spool: Name
    """The id of the numbering that `seq` counts in; repeats are told by (agent, spool, seq)."""
    first: U64
    """The lowest seq that is still to be delivered."""
    last: U64
    """The highest; `first` - 1 where there is none."""


class Welcome(_Said, frozen=True, kw_only=True):
    """The answer to HELLO."""

    op: ClassVar[str] = "welcome"
    durable: U64
    """The highest seq of this spool that is safe; 0 where none is."""
    credit: Count
    """DATA messages that may be on their way without an ACK."""
    max_size: Bytes
    """The longest record taken, in bytes as sent."""
    refused: Reason = ""
    """Why this agent is not admitted; "" where it is."""


class Data(_Said, frozen=True, kw_only=True):
    """One record.

    `seq` 0 is a schema: sent in each session before the first snapshot that needs it, not acknowledged.
    """

    op: ClassVar[str] = "data"
    spool: Name
    seq: U64
    frame: bytes | memoryview
    """As `wire.decode` takes it; the message's second part."""


class Ack(_Said, frozen=True, kw_only=True):
    """Every record up to `seq` is safe (or was refused by a NACK)."""

    op: ClassVar[str] = "ack"
    seq: U64
    credit: Count
    """DATA messages that may be on their way from now on."""


class Nack(_Said, frozen=True, kw_only=True):
    """The record `seq` was not taken: never will be (`fatal`), or not now."""

    op: ClassVar[str] = "nack"
    seq: U64
    fatal: bool
    reason: Reason


class Bye(_Said, frozen=True, kw_only=True):
    """The session is over: the sender stops, or wants to hear HELLO first."""

    op: ClassVar[str] = "bye"
    reason: Reason = ""


Message = Hello | Welcome | Data | Ack | Nack | Bye


class _DataHead(msgspec.Struct, frozen=True):
    spool: Name
    seq: U64


class _WholeDataHead(msgspec.Struct, frozen=True):
    v: int
    op: str
    spool: Name
    seq: U64


class _Head(msgspec.Struct, frozen=True):
    v: int
    op: str = ""


_MALFORMED = (msgspec.DecodeError, ValueError, RecursionError)

_decode_head = msgspec.msgpack.Decoder(_Head).decode
_decode_data = msgspec.msgpack.Decoder(_WholeDataHead).decode
_DECODERS: Mapping[str, msgspec.msgpack.Decoder[Any]] = {
    kind.op: msgspec.msgpack.Decoder(_DataHead if kind is Data else kind)
    for kind in (Hello, Welcome, Data, Ack, Nack, Bye)
}


def encode(message: Message) -> list[bytes | memoryview]:
    """The parts of the ZeroMQ message; a reason that is too long is cut."""
    fields = {name: getattr(message, name) for name in message.__struct_fields__ if name != "frame"}
    for name in ("reason", "refused"):
        if name in fields:
            fields[name] = fields[name][:REASON_LENGTH]
    head = msgspec.msgpack.encode({"v": PROTOCOL, "op": message.op, **fields})
    return [head, message.frame] if isinstance(message, Data) else [head]


def _data(head: bytes | memoryview, frame: bytes | memoryview) -> Data | None:
    """Nearly all messages, in one go; None where something is wrong, which `decode` then says."""
    try:
        found = _decode_data(head)
    except _MALFORMED:
        return None
    if found.v != PROTOCOL or found.op != Data.op:
        return None
    return Data(spool=found.spool, seq=found.seq, frame=frame)


def decode(parts: Sequence[bytes | memoryview], *, where: str = "message") -> Message:
    """The message that `parts` are; raises WireError naming `where` and what is wrong with it."""
    if not parts or len(parts[0]) > HEAD_BYTES:
        raise WireError(f"a message begins with a part of at most {HEAD_BYTES} bytes", where=where)
    if len(parts) == 2:
        data = _data(parts[0], parts[1])
        if data is not None:
            return data
    try:
        head = _decode_head(parts[0])
    except _MALFORMED as error:
        raise WireError(f"not a message of bpfleet's delivery protocol: {error}", where=where) from None
    if head.v != PROTOCOL:
        raise WireError(
            f"the peer speaks version {head.v} of the delivery protocol, this is version {PROTOCOL}",
            where=where,
            remedy="bring agent and aggregator to releases that speak the same version",
        )
    decoder = _DECODERS.get(head.op)
    if decoder is None:
        raise WireError(f"there is no message {head.op[:40]!r}", where=where)
    if len(parts) != (2 if head.op == Data.op else 1):
        raise WireError(f"{head.op} does not have {len(parts)} parts", where=where)
    try:
        message: Message | _DataHead = decoder.decode(parts[0])
    except _MALFORMED as error:
        raise WireError(f"{head.op} is malformed: {error}", where=where) from None
    if isinstance(message, _DataHead):
        return Data(spool=message.spool, seq=message.seq, frame=parts[1])
    return message

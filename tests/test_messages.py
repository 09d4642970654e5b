"""The messages of the delivery protocol: what goes in comes out, and nothing else does."""

from __future__ import annotations

import contextlib
import string
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpfleet import WireError
from bpfleet.wire.messages import PROTOCOL, Ack, Bye, Data, Hello, Message, Nack, Welcome, decode, encode

TOP = 2**64 - 1

EVERY_KIND: list[Message] = [
    Hello(agent="a" * 64, spool="s", first=1, last=TOP),
    Welcome(durable=0, credit=8, max_size=1 << 20),
    Welcome(durable=TOP, credit=0, max_size=0, refused="unknown agent"),
    Data(spool="s", seq=7, frame=b"record"),
    Ack(seq=TOP, credit=8),
    Nack(seq=3, fatal=True, reason="malformed"),
    Bye(),
    Bye(reason="stopping"),
]


@pytest.mark.parametrize("message", EVERY_KIND, ids=lambda message: message.op)
def test_every_message_survives_the_way(message: Message) -> None:
    assert decode(encode(message)) == message


names = st.text(string.printable, min_size=1, max_size=16)
numbers = st.integers(0, TOP)


@given(names, names, numbers, numbers, st.binary(max_size=64), st.text(max_size=512), st.booleans())
def test_any_content_survives_the_way(
    agent: str, spool: str, first: int, last: int, frame: bytes, reason: str, fatal: bool
) -> None:
    messages: list[Message] = [
        Hello(agent=agent, spool=spool, first=first, last=last),
        Data(spool=spool, seq=first, frame=frame),
        Nack(seq=last, fatal=fatal, reason=reason),
    ]
    for message in messages:
        assert decode(encode(message)) == message


def test_a_message_begins_with_version_and_op_as_documented() -> None:
    (head,) = encode(Ack(seq=5, credit=8))
    assert head == b"\x84\xa1v\x01\xa2op\xa3ack\xa3seq\x05\xa6credit\x08"


def test_the_record_of_data_is_a_part_of_its_own_and_not_copied() -> None:
    record = memoryview(bytes(1000))
    parts = encode(Data(spool="s", seq=1, frame=record))
    assert len(parts[0]) < 100
    assert parts[1] is record
    message = decode([b"".join([parts[0]]), record])
    assert isinstance(message, Data)
    assert message.frame is record


def changed(message: Message, **changes: Any) -> list[bytes]:
    """The message's parts with some fields changed; None leaves a field out."""
    head, *rest = encode(message)
    fields = msgpack.unpackb(head) | changes
    packed = msgpack.packb({key: value for key, value in fields.items() if value is not None})
    return [packed, *map(bytes, rest)]


ACK, HELLO, NACK = Ack(seq=5, credit=8), EVERY_KIND[0], EVERY_KIND[5]
DATA, WELCOME = EVERY_KIND[3], EVERY_KIND[1]


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ([], "begins with a part"),
        ([b""], "not a message"),
        ([b"\xc1"], "not a message"),
        ([b"\x93\x01\x02\x03"], "not a message"),
        ([bytes(4097)], "at most 4096 bytes"),
        ([b"\x91" * 4000], "not a message"),
        ([b"\x83\xa1v\x01\xa2op\xa3ack\xa1x" + b"\x91" * 4000], "not a message"),
        ([encode(ACK)[0] + b"\x00"], "not a message"),
        ([encode(ACK)[0][:-1]], "not a message"),
        (changed(ACK, v=None), "not a message"),
        (changed(ACK, v=PROTOCOL + 1), f"speaks version {PROTOCOL + 1}"),
        (changed(ACK, v=PROTOCOL + 1, seq="changed"), f"speaks version {PROTOCOL + 1}"),
        (changed(ACK, op="ask"), "no message 'ask'"),
        (changed(ACK, op=None), "no message ''"),
        (changed(ACK, seq=None), "missing required field `seq`"),
        (changed(ACK, seq=-1), r"\$.seq"),
        (changed(ACK, seq=5.0), r"\$.seq"),
        (changed(ACK, seq=True), r"\$.seq"),
        (changed(ACK, seq="5"), r"\$.seq"),
        (changed(ACK, credit=1 << 40), r"\$.credit"),
        (changed(WELCOME, max_size=1 << 31), r"\$.max_size"),
        (changed(NACK, fatal=1), r"\$.fatal"),
        (changed(NACK, reason="x" * 513), r"\$.reason"),
        (changed(HELLO, agent=""), r"\$.agent"),
        (changed(HELLO, agent="a" * 65), r"\$.agent"),
        (changed(HELLO, spool=b"bytes"), r"\$.spool"),
        ([*encode(ACK), b"more"], "does not have 2 parts"),
        (changed(DATA)[:1], "does not have 1 parts"),
        ([*changed(DATA), b"more"], "does not have 3 parts"),
    ],
)
def test_what_is_no_message_is_refused_with_the_reason_and_the_place(parts: list[bytes], said: str) -> None:
    with pytest.raises(WireError, match=said) as caught:
        decode(parts, where="tcp://there:1")
    assert caught.value.where == "tcp://there:1"


@given(st.lists(st.binary(max_size=200), max_size=3))
def test_random_bytes_are_never_anything_but_a_message_or_a_wire_error(parts: list[bytes]) -> None:
    with contextlib.suppress(WireError):
        decode(parts)


@given(st.sampled_from(EVERY_KIND), st.integers(0, 200), st.integers(0, 255))
def test_one_changed_byte_is_never_anything_but_a_message_or_a_wire_error(
    message: Message, at: int, byte: int
) -> None:
    head = bytearray(encode(message)[0])
    head[at % len(head)] = byte
    with contextlib.suppress(WireError):
        decode([bytes(head), *encode(message)[1:]])


def test_a_key_that_is_not_known_is_ignored_so_that_later_releases_may_say_more() -> None:
    assert decode(changed(ACK, later={"more": [1, 2]})) == ACK


def test_a_reason_that_is_too_long_is_cut_and_still_understood() -> None:
    message = decode(encode(Nack(seq=1, fatal=False, reason="\N{GRINNING FACE}" * 10_000)))
    assert isinstance(message, Nack)
    assert message.reason == "\N{GRINNING FACE}" * 512

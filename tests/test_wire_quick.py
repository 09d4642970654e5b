"""The quick path of the decoder answers as the strict one does, or leaves the frame to it."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest

from bpfleet.errors import WireError
from bpfleet.wire import Decoder, Limits, Snapshot
from bpfleet.wire.quick import Known, quick_snapshot

GOLDEN = Path(__file__).parent / "golden"
SCHEMA = (GOLDEN / "schema_small.msgpack").read_bytes()
USUAL = (GOLDEN / "snapshot_small.msgpack").read_bytes()
STRICT = Limits(values=(1 << 16) - 1)
"""Limits that are not the usual ones, so that there is no quick path."""


def quick(frame: bytes) -> Snapshot | None:
    """What the quick path alone says."""
    decoder = Decoder()
    decoder.decode(SCHEMA)
    return quick_snapshot(memoryview(frame), decoder._schemas, Known(), decoder.limits)


def strict(frame: bytes) -> Any:
    """What the strict path says: a record, or None for an error."""
    decoder = Decoder(STRICT)
    decoder.decode(SCHEMA)
    try:
        return decoder.decode(frame)
    except WireError:
        return None


def plain(one: Snapshot) -> Any:
    fields = {name: getattr(one, name) for name in Snapshot.__slots__ if name != "columns"}
    return fields | {"columns": [(a.dtype, a.shape, a.tobytes()) for a in one.columns]}


def agree(frame: bytes) -> bool:
    """Whether the quick path took `frame`; fails where the strict path says something else."""
    fast = quick(frame)
    if fast is None:
        return False
    slow = strict(frame)
    assert isinstance(slow, Snapshot), frame
    assert plain(fast) == plain(slow)
    return True


def changed(**fields: Any) -> bytes:
    packed: bytes = msgpack.packb(msgpack.unpackb(USUAL) | fields)
    return packed


def test_what_the_encoder_writes_takes_the_quick_path() -> None:
    assert agree(USUAL)
    assert agree(changed(losses={"failed_insert": 3, "truncated": 1}, seq=(1 << 64) - 1, wall_offset=-5))


@pytest.mark.parametrize(
    "frame",
    [
        changed(extra=1),
        changed(losses={"x": -1}),
        changed(losses={"x": 1.5}),
        changed(losses={"x": {}}),
        changed(losses=[]),
        changed(rows=3),
        changed(rows=1 << 40),
        changed(columns=[]),
        changed(columns=["x" * 8, b"x" * 8, b"x" * 16]),
        changed(seq=True),
        changed(seq=1.0),
        changed(wall_offset=1 << 63),
        changed(t0=(1 << 64) - 1),
        changed(parts=0),
        changed(part=1),
        changed(agent=""),
        changed(agent="a b"),
        changed(agent="ä" * 33),
        changed(host="h" * 256),
        changed(boot="b" * 65),
        changed(method="m" * 65),
        changed(collector="other"),
        changed(v=2),
        changed(kind="gap"),
        USUAL + b"\x00",
        USUAL[:-1],
        # Twice the same key, in the record and in the losses.
        USUAL.replace(b"\xa4host", b"\xa4boot"),
        USUAL.replace(
            b"\xa6losses\x81\xadfailed_insert\x00",
            b"\xa6losses\x82\xadfailed_insert\x00\xadfailed_insert\x01",
        ),
        USUAL.replace(b"\xa6losses\x81\xadfailed_insert\x00", b"\xa6losses" + b"\x91" * 5000 + b"\x00"),
        USUAL.replace(b"\xa7columns\x93", b"\xa7columns\xdd\xff\xff\xff\xff"),
    ],
)
def test_what_is_wrong_or_unusual_is_left_to_the_strict_path(frame: bytes) -> None:
    assert frame != USUAL
    assert not agree(frame)


def test_each_byte_may_be_any_other() -> None:
    taken = 0
    chosen = random.Random(1)
    for at in range(len(USUAL)):
        for value in {0, 0x7F, 0x80, 0xC0, 0xC1, 0xFF, USUAL[at] ^ 1, chosen.randrange(256)}:
            taken += agree(USUAL[:at] + bytes([value]) + USUAL[at + 1 :])
    assert taken > 20


def test_two_changes_at_once() -> None:
    chosen, taken = random.Random(2), 0
    edits: list[Callable[[bytearray, int], None]] = [
        lambda data, at: data.__setitem__(at, chosen.randrange(256)),
        lambda data, at: data.__delitem__(at),
        lambda data, at: data.insert(at, chosen.randrange(256)),
        lambda data, at: data.__setitem__(slice(at, at + 9), data[at - 9 : at]),
    ]
    for _ in range(5000):
        data = bytearray(USUAL)
        for _ in range(2):
            chosen.choice(edits)(data, chosen.randrange(9, len(data) - 9))
        taken += agree(bytes(data))
    assert taken > 20


def test_the_origin_is_checked_anew_when_it_changes() -> None:
    decoder = Decoder()
    decoder.decode(SCHEMA)
    first, same = decoder.decode(USUAL), decoder.decode(USUAL)
    assert isinstance(first, Snapshot)
    assert isinstance(same, Snapshot)
    assert first.origin is same.origin
    other = decoder.decode(changed(host="other"))
    assert isinstance(other, Snapshot)
    assert other.origin.host == "other"
    with pytest.raises(WireError, match="agent"):
        decoder.decode(changed(agent="a b"))
    assert np.array_equal(first.columns[0], same.columns[0])

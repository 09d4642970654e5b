"""Records of a ring are found and copied as one by one, whatever their sizes and flags."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpfleet.draining.copying import Copier
from bpfleet.draining.pending import Pending
from bpfleet.draining.records import Run, Scattered, locate
from bpfleet.draining.ring import RingBuffer, _steps
from bpfleet.events import our_columns
from bpfleet.layout import declared
from bpfleet.schema import Field, gauge, label

BUSY, DISCARDED = 1 << 31, 1 << 30


@dataclass
class Counts:
    """A book in this process's memory."""

    consumed: int = 0
    told: int = 0
    no_room: int = 0
    short: int = 0


@dataclass
class Events:
    """Records as a ring buffer holds them, written one by one."""

    lengths: list[int] = field(default_factory=list)
    data: bytearray = field(default_factory=bytearray)

    def add(self, content: bytes, flags: int = 0) -> None:
        # The kernel's half of the header is whatever it is.
        self.data += struct.pack("<II", len(content) | flags, len(self.data) * 7919 & 0xFFFFFFFF)
        self.data += content.ljust(-(-len(content) // 8) * 8, b"\xee")

    @property
    def words(self) -> Any:
        return np.frombuffer(bytes(self.data), "<u8")


def one_by_one(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(slot, length, flags) of every record up to the first that is busy: the plain loop."""
    at = 0
    while at < len(data):
        (header,) = struct.unpack_from("<I", data, at)
        if header & BUSY:
            return
        length = header & (DISCARDED - 1)
        yield at // 8, length, header & DISCARDED
        at += 8 + -(-length // 8) * 8


def slots(found: Run | Scattered) -> list[int]:
    if isinstance(found, Run):
        return [found.start + index * found.step for index in range(found.count)]
    return [int(slot) for slot in found.at]


def content(number: int, length: int) -> bytes:
    return bytes((number * 31 + place * 7) & 0xFF for place in range(length))


lengths = st.one_of(
    st.lists(st.integers(0, 300), max_size=400),
    st.lists(st.sampled_from([16, 24, 24, 24, 40]), max_size=3000),
    st.tuples(st.integers(0, 64), st.integers(0, 3000)).map(lambda drawn: [drawn[0]] * drawn[1]),
    st.lists(st.tuples(st.integers(0, 64), st.integers(1, 300)), max_size=12).map(
        lambda runs: [length for length, count in runs for _ in range(count)]
    ),
)


@given(lengths=lengths, every=st.integers(1, 50), busy=st.integers(0, 3000))
@settings(max_examples=150, deadline=None)
def test_every_record_is_found_up_to_the_first_that_is_being_written(
    lengths: list[int], every: int, busy: int
) -> None:
    events = Events()
    for number, length in enumerate(lengths):
        flags = BUSY if number == busy else DISCARDED if number % every == 0 and every < 40 else 0
        events.add(content(number, length), flags)
    found = [slot for one in locate(events.words, _steps, 0xFFFFFFFF) for slot in slots(one)]
    assert found == [slot for slot, _, _ in one_by_one(bytes(events.data))]


EVENT: tuple[Field, ...] = (gauge("number", "u32"), label("kind", "u32"), label("text", "char[20]"))


class OfBytes(RingBuffer):
    """A ring buffer's reading over bytes of our own."""

    def __init__(self, events: Events, event_size: int) -> None:
        self._size = 1 << 20
        self._data = np.zeros(2 * self._size // 8, "<u8")
        self._data[: len(events.words)] = events.words
        self._consumer = np.zeros(1, "<u8")
        self._producer = np.array([len(events.data)], "<u8")
        self._record = event_size + 8


def drained(events: Events, most_bytes: int = 1 << 20) -> tuple[list[tuple[Any, ...]], Counts, Copier]:
    layout, ours, counts = declared(EVENT), our_columns("ringbuf", raw=True), Counts()
    pending = Pending(ours, layout, most_bytes)
    copier = Copier(pending, counts, layout)  # type: ignore[arg-type]
    ring = OfBytes(events, layout.size)
    ring.drain(copier)
    assert int(ring._consumer[0]) == len(events.data)
    rows, columns = pending.take()
    made = list(zip(*(column.tolist() for column in columns), strict=True))
    assert len(made) == rows
    return made, counts, copier


def expected(number: int, whole: bytes, nth: int) -> tuple[Any, ...]:
    there = whole[:28].ljust(28, b"\0")
    return (nth, len(whole), *struct.unpack("<II20s", there)[:2], there[8:28].rstrip(b"\0"))


@given(lengths=st.one_of(st.lists(st.integers(0, 60), max_size=300), lengths), every=st.integers(2, 30))
@settings(max_examples=100, deadline=None)
def test_rows_are_the_events_short_ones_filled_with_zeros_long_ones_cut(
    lengths: list[int], every: int
) -> None:
    events, wanted = Events(), []
    for number, length in enumerate(lengths):
        whole = content(number, length)
        gone = number % every == 0
        events.add(whole, DISCARDED if gone else 0)
        if not gone:
            wanted.append(expected(number, whole, len(wanted) + 1))
    rows, counts, copier = drained(events)
    assert rows == wanted
    assert counts.consumed == len(wanted)
    assert counts.no_room == 0
    assert counts.short == sum(length <= 8 for number, length in enumerate(lengths) if number % every)
    assert sum(copier.sizes.values()) == len(wanted)


@pytest.mark.parametrize("same", [True, False])
def test_what_has_no_room_is_counted_and_keeps_its_number(same: bool) -> None:
    events = Events()
    for number in range(1000):
        events.add(content(number, 28 if same else 28 + number % 5 * 8))
    # A row takes 16 + 32 bytes.
    rows, counts, _ = drained(events, most_bytes=48 * 300)
    assert len(rows) == 300
    assert (counts.consumed, counts.no_room) == (1000, 700)
    assert [row[0] for row in rows] == list(range(1, 301))

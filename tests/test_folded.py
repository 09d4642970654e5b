"""Stacks as flame graphs' input, from records of our own."""

from __future__ import annotations

import numpy as np
import pytest

from bpfleet.views import Folder
from bpfleet.wire import Column, Schema, Snapshot
from sample_records import snapshot

ROWS = Schema(
    "profile",
    "1",
    "samples",
    "",
    (
        Column("tgid", "key", "u32", None, "label"),
        Column("samples", "value", "u64", None, "counter"),
        Column("other", "value", "u64", None, "counter"),
        Column("stack", "value", "char", 16, "label"),
    ),
)
TEXTS = Schema(
    "profile",
    "1",
    "samples_stacks",
    "",
    (Column("stack", "key", "char", 16, "label"), Column("text", "value", "char", 4096, "label")),
)


def texts(**said: str) -> Snapshot:
    columns = [np.array([*said], "S16"), np.array([*said.values()], "S4096")]
    return snapshot(1, schema=TEXTS, rows=len(said), columns=columns)


def rows(seq: int, *said: tuple[int, int, str], generation: int = 5) -> Snapshot:
    pids, numbers, stacks = zip(*said, strict=True)
    columns = [
        np.array(pids, "<u4"),
        np.array(numbers, "<u8"),
        np.full(len(pids), 77, "<u8"),
        np.array(stacks, "S16"),
    ]
    return snapshot(seq, schema=ROWS, rows=len(pids), columns=columns, generation=generation)


def test_rows_of_one_stack_are_one_line_with_the_first_counter() -> None:
    folder = Folder()
    assert folder.show(texts(a="sh;main;read", b="sh;main")) == b""
    assert folder.show(rows(2, (1, 3, "a"), (2, 4, "a"), (1, 5, "b"))) == b"sh;main 5\nsh;main;read 7\n"


def test_lines_of_several_snapshots_add_up() -> None:
    folder = Folder()
    folder.show(texts(a="a", b="b"))
    assert folder.show(rows(2, (1, 3, "a"))) == b"a 3\n"
    assert folder.show(rows(3, (1, 3, "a"), (1, 2, "b"))) == b"b 2\n"
    assert folder.show(rows(4, (1, 10, "a"), (1, 2, "b"))) == b"a 7\n"


@pytest.mark.parametrize(("generation", "count"), [(5, 4), (6, 40)])
def test_a_counter_that_began_anew_counts_from_zero(generation: int, count: int) -> None:
    folder = Folder()
    folder.show(texts(a="a"))
    folder.show(rows(2, (1, 30, "a")))
    assert folder.show(rows(3, (1, count, "a"), generation=generation)) == b"a %d\n" % count


def test_a_stack_whose_text_was_missed_has_its_hash() -> None:
    assert Folder().show(rows(2, (1, 3, "0123456789abcdef"))) == b"0123456789abcdef 3\n"


def test_maps_without_stacks_make_no_lines() -> None:
    assert Folder().show(snapshot(1)) == b""

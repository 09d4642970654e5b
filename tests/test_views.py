"""Records for people: JSON, tables, rates, quantiles."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from dataclasses import replace
from typing import Any

import msgpack
import numpy as np
import pytest

from bpfleet import WireError
from bpfleet.views import Assembler, Follower, Look, json_line, rates, render_table, to_json
from bpfleet.views.histogram import quantile, sparkline
from bpfleet.views.units import quantity, safe_text
from bpfleet.wire import Column, Decoder, Origin, Schema, Snapshot, encode_schema, encode_snapshot
from sample_records import COUNTS, COUNTS_FRAME, ORIGIN, gap, snapshot, status

SECOND = 10**9


def line(record: Any) -> dict[str, Any]:
    text = json_line(record)
    assert text.endswith(b"\n")
    assert text.count(b"\n") == 1
    plain: dict[str, Any] = json.loads(text)
    return plain


# ---- JSON


def test_a_snapshot_is_one_json_object_with_rows_by_field_name() -> None:
    made = line(snapshot(7, {"sh": 2, "ls": 1}))
    assert list(made)[:7] == ["kind", "collector", "map", "host", "seq", "t1", "rows"]
    assert made["rows"] == [{"comm": "sh", "count": 2}, {"comm": "ls", "count": 1}]
    assert set(made) - {"kind", "collector", "map", "host", "seq", "t1", "rows"} == {
        *("agent", "boot", "run", "generation", "version", "t0", "wall_offset", "method", "complete"),
        *("losses", "entries", "max_entries", "part", "parts", "schema"),
    }
    assert made["schema"] == COUNTS.id


@pytest.mark.parametrize(
    ("record", "kind"), [(COUNTS, "schema"), (gap(2, 5, 7), "gap"), (status(3), "status")]
)
def test_every_kind_of_record_names_its_kind_first(record: Any, kind: str) -> None:
    assert next(iter(line(record).items())) == ("kind", kind)


def test_a_gap_in_json_has_the_lost_range_and_the_reason() -> None:
    made = line(gap(9, 5, 7))
    assert (made["first"], made["last"], made["count"], made["reason"]) == (5, 7, 3, "queue_full")


def test_a_status_in_json_has_its_body_beside_the_head() -> None:
    made = line(status(3))
    assert made["collectors"] == [{"name": "execve", "state": "running", "error": None}]
    assert made["labels"] == {"rack": "7"}
    assert made["agent"] == ORIGIN.agent


def test_bytes_are_hex_in_json_and_numbers_keep_every_digit() -> None:
    schema = Schema(
        "c",
        "1",
        "m",
        "",
        (Column("raw", "key", "bytes", 3, "label"), Column("n", "value", "u64", None, "counter")),
    )
    columns = [np.array([b"\x00\xff\x10"], "V3"), np.array([2**64 - 1], "<u8")]
    made = line(snapshot(1, {"": 0}, schema=schema, columns=columns))
    assert made["rows"] == [{"raw": "00ff10", "n": 2**64 - 1}]


def test_a_float_that_is_no_number_is_null_in_json() -> None:
    schema = Schema("c", "1", "m", "", (Column("x", "value", "f64", None, "gauge"),))
    columns = [np.array([float("nan"), float("inf"), 1.5])]
    made = line(snapshot(1, {"a": 0, "b": 0, "c": 0}, schema=schema, columns=columns))
    assert [row["x"] for row in made["rows"]] == [None, None, 1.5]


def test_a_status_with_bytes_and_one_that_is_nested_too_deep_are_no_traceback() -> None:
    body: Any = b"\x01"
    for _ in range(3):
        body = [body]
    assert line(replace(status(1), body={"labels": {"x": body}}))["labels"] == {"x": [[["01"]]]}
    for _ in range(900):
        body = [body]
    with pytest.raises(WireError, match="deep"):
        to_json(replace(status(1), body={"labels": {"x": body}}))


def test_a_status_from_a_stranger_can_not_pass_for_another_kind() -> None:
    made = to_json(replace(status(1), body={"kind": "snapshot", "agent": "someone else"}))
    assert (made["kind"], made["agent"]) == ("status", ORIGIN.agent)


# ---- rates


def rate(now: Snapshot, previous: Snapshot | None) -> list[float]:
    made: list[float] = rates(now, previous, range(now.rows))["count"].tolist()
    return made


def test_a_rate_is_the_difference_over_the_time_between_the_snapshots() -> None:
    now, previous = snapshot(12, {"sh": 50, "ls": 5}), snapshot(10, {"ls": 1, "sh": 10})
    assert rate(now, previous) == [20.0, 2.0]


def test_the_first_snapshot_has_no_rates() -> None:
    assert all(math.isnan(value) for value in rate(snapshot(12, {"sh": 50}), None))


def test_a_key_that_was_absent_counts_from_zero() -> None:
    assert rate(snapshot(12, {"sh": 50, "new": 8}), snapshot(10, {"sh": 50})) == [0.0, 4.0]


def test_a_key_absent_from_an_incomplete_snapshot_has_no_rate() -> None:
    made = rate(snapshot(12, {"sh": 50, "new": 8}), snapshot(10, {"sh": 50}, complete=False))
    assert made[0] == 0.0
    assert math.isnan(made[1])


def test_a_program_loaded_anew_counts_from_zero_at_its_load_time() -> None:
    now = snapshot(20, {"sh": 50}, generation=15 * SECOND)
    assert rate(now, snapshot(10, {"sh": 1000})) == [10.0]


def test_another_boot_counts_from_zero_at_the_load_time() -> None:
    later = Origin(ORIGIN.agent, ORIGIN.host, "boot-2", 1)
    now = snapshot(20, {"sh": 50}, generation=10 * SECOND, origin=later)
    assert rate(now, snapshot(500, {"sh": 1000})) == [5.0]


def test_another_agents_snapshot_is_never_subtracted() -> None:
    other = Origin("other", ORIGIN.host, ORIGIN.boot, ORIGIN.run)
    assert all(math.isnan(value) for value in rate(snapshot(12), snapshot(10, origin=other)))


def test_a_counter_that_was_evicted_counts_from_zero() -> None:
    assert rate(snapshot(12, {"sh": 6}), snapshot(10, {"sh": 1000})) == [3.0]


def test_counters_near_the_top_of_u64_are_subtracted_exactly() -> None:
    top = 2**64 - 1
    assert rate(snapshot(11, {"sh": top}), snapshot(10, {"sh": top - 3})) == [3.0]


# ---- quantiles and sparklines


def test_quantiles_lie_in_the_slot_that_holds_the_rank() -> None:
    slots = [0] * 32
    slots[4], slots[10] = 90, 10
    assert 16 <= quantile(slots, 0.5) < 32
    assert 1024 <= quantile(slots, 0.99) <= 2048


@pytest.mark.parametrize("seed", range(5))
def test_an_estimated_quantile_is_within_a_factor_of_two_of_the_true_one(seed: int) -> None:
    values = np.random.default_rng(seed).lognormal(8, 2, 5000).astype(np.uint64) + 2
    slots = np.bincount(np.log2(values.astype(float)).astype(int), minlength=64).tolist()
    for q in (0.5, 0.9, 0.99):
        true = float(np.quantile(values, q, method="inverted_cdf"))
        assert true / 2 <= quantile(slots, q) <= true * 2


def test_nothing_counted_has_no_quantile() -> None:
    assert math.isnan(quantile([0] * 8, 0.5))


def test_zero_and_one_are_in_the_first_slot() -> None:
    assert 0 <= quantile([10, 0, 0], 0.5) <= 2


def test_bars_show_even_the_smallest_count_and_nothing_for_none() -> None:
    assert sparkline([1, 0, 1000]) == "\u2581 \u2588"
    assert sparkline([1, 0, 1000], ascii=True) == ". @"
    assert sparkline([0, 0]) == "  "


# ---- units


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (1_234_567, "ns", "1.23 ms"),
        (999_999, "ns", "1 ms"),
        (999, "ns", "999 ns"),
        (0, "ns", "0 s"),
        (90, "s", "1.5 min"),
        (1500, "us", "1.5 ms"),
        (1_572_864, "bytes", "1.5 MiB"),
        (1000, "bytes", "1,000 B"),
        (1_234_567, "", "1,234,567"),
        (2**64 - 1, "", "18,446,744,073,709,551,615"),
        (12.345, "", "12.3"),
        (0.5, "", "0.5"),
        (float("nan"), "", "\N{EN DASH}"),
    ],
)
def test_numbers_are_short_and_have_their_unit(value: float, unit: str, shown: str) -> None:
    assert quantity(value, unit) == shown


def test_what_steers_a_terminal_is_shown_and_not_sent() -> None:
    assert safe_text("a\x1b[2Jb\n") == "a\\x1b[2Jb\\n"


# ---- tables


def test_a_table_has_a_title_with_fill_method_and_losses() -> None:
    made = snapshot(10, {"sh": 5}, losses={"failed_insert": 1200, "truncated": 0}, complete=False)
    title = render_table(made).splitlines()[0]
    assert title.startswith("execve.counts  20")
    for said in ("web1", "1 of 1,024 entries (<1%)", "walk 20 \N{MICRO SIGN}s"):
        assert said in title
    assert title.endswith("lost: failed_insert 1,200; incomplete")


def test_a_table_shows_the_rows_that_count_most_and_says_how_many_it_left_out() -> None:
    made = snapshot(10, {f"p{i}": i for i in range(50)})
    lines = render_table(made, look=Look(rows=3)).splitlines()
    assert [row.split()[0] for row in lines[2:5]] == ["p49", "p48", "p47"]
    assert "47 more rows" in lines[5]


def test_columns_are_aligned_and_numbers_stand_right() -> None:
    lines = render_table(snapshot(10, {"a": 1, "longer": 1_000_000})).splitlines()[1:]
    assert lines == [
        "  comm        count  count/s",
        "  longer  1,000,000        \N{EN DASH}",
        "  a               1        \N{EN DASH}",
    ]


def test_labels_stand_before_numbers_even_where_the_value_holds_them() -> None:
    columns = (
        Column("pid", "key", "u32", None, "label"),
        Column("cpu", "value", "u64", None, "counter", "ns"),
        Column("comm", "value", "char", 16, "label"),
    )
    schema = Schema("cputime", "1", "processes", "", columns)
    arrays = [np.array([7], "<u4"), np.array([5_000_000], "<u8"), np.array([b"sh"], "S16")]
    lines = render_table(snapshot(1, {"": 0}, schema=schema, columns=arrays)).splitlines()
    assert lines[1].split() == ["pid", "comm", "cpu", "cpu/s"]
    assert lines[2].split() == ["7", "sh", "5", "ms", "\N{EN DASH}"]


def test_a_table_without_colour_has_no_escape_codes_even_for_hostile_names() -> None:
    made = render_table(snapshot(10, {"\x1b[31mred": 1}))
    assert "\x1b" not in made
    assert "\\x1b[31mred" in made


def test_colour_changes_nothing_but_the_escape_codes() -> None:
    made = snapshot(10, {"sh": 5, "ls": 7}, losses={"failed_insert": 3})
    coloured = render_table(made, look=Look(color=True))
    assert "\x1b[" in coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == render_table(made)


def test_a_narrow_terminal_shortens_names_and_keeps_numbers() -> None:
    made = snapshot(10, {"a-long-command-n": 123_456})
    lines = render_table(made, look=Look(width=34)).splitlines()
    assert max(map(len, lines[1:])) <= 34
    assert "123,456" in lines[2]
    assert "a-long" in lines[2]


def test_ascii_only_means_ascii_only() -> None:
    made = snapshot(10, {"c\N{LATIN SMALL LETTER O WITH DIAERESIS}mm".encode(): 1})  # type: ignore[dict-item]
    assert render_table(made, look=Look(ascii=True)).isascii()


def test_a_map_without_rows_says_so() -> None:
    assert "(no rows)" in render_table(snapshot(10, {}))


def histogram_snapshot(seq: int, slots: list[list[int]]) -> Snapshot:
    schema = Schema(
        "lat",
        "1",
        "h",
        "",
        (Column("cpu", "key", "u32", None, "label"), Column("lat", "value", "u64", 32, "histogram", "ns")),
    )
    columns = [np.arange(len(slots), dtype="<u4"), np.array(slots, "<u8")]
    return snapshot(seq, {str(i): 0 for i in range(len(slots))}, schema=schema, columns=columns)


def test_a_histogram_is_shown_as_bars_with_quantiles_in_its_unit() -> None:
    slots = [0] * 32
    slots[10], slots[12], slots[20] = 50, 49, 1
    lines = render_table(histogram_snapshot(10, [slots])).splitlines()
    assert lines[1].split() == ["cpu", "lat", "lat/s", "p50", "p99"]
    assert "\N{MICRO SIGN}s" in lines[2]
    assert lines[2].rstrip().endswith("\u2588 \u2588       \u2581")


def test_a_quantile_in_the_last_slot_is_a_lower_bound() -> None:
    slots = [0] * 31 + [5]
    assert "> " in render_table(histogram_snapshot(10, [slots])).splitlines()[2]


# ---- parts, gaps, status


def parts_of(made: Snapshot, most: int = 4096) -> list[Snapshot]:
    decoder = Decoder()
    decoder.decode(COUNTS_FRAME.data)
    found = [decoder.decode(one.data) for one in encode_snapshot(made, COUNTS_FRAME, most=most)]
    assert len(found) > 2
    return [part for part in found if isinstance(part, Snapshot)]


def test_the_parts_of_a_large_snapshot_are_shown_as_one() -> None:
    made = snapshot(10, {f"p{i}": i for i in range(600)})
    follower = Follower(Look(rows=1))
    texts = [follower.show(part) for part in parts_of(made)]
    assert texts[:-1] == [""] * (len(texts) - 1)
    assert texts[-1].splitlines()[2].split()[:2] == ["p599", "599"]


def test_parts_with_one_missing_are_not_shown_as_a_whole() -> None:
    parts = parts_of(snapshot(10, {f"p{i}": i for i in range(600)}))
    assembler = Assembler()
    assert [assembler.add(part) for part in (parts[0], *parts[2:])] == [None] * (len(parts) - 1)


def test_the_second_table_of_a_map_has_rates() -> None:
    follower = Follower()
    follower.show(snapshot(10, {"sh": 10}))
    assert follower.show(snapshot(12, {"sh": 30})).splitlines()[2].split() == ["sh", "30", "10"]


def test_a_gap_is_one_clear_line() -> None:
    text = Follower().show(gap(9, 5, 7))
    assert text == "gap: sink test of web1 did not get 3 records (seq 5 to 7): queue_full\n"


def test_status_is_shown_when_a_state_changes_and_not_otherwise() -> None:
    follower = Follower()
    assert "1 collector running, 1 sink running" in follower.show(status(1))
    assert follower.show(status(2)) == ""
    error = {"error": "ReadError", "what": "a map can't be read", "where": "", "remedy": "wait", "log": ""}
    changed = follower.show(status(3, state="quarantined", error=error))
    assert changed.endswith(
        "collector execve: running \N{RIGHTWARDS ARROW} quarantined: a map can't be read; wait\n"
    )
    assert changed.count("\n") == 1
    assert "quarantined \N{RIGHTWARDS ARROW} running" in follower.show(status(4))


def test_an_error_is_shown_on_the_first_status_too() -> None:
    text = Follower().show(status(1, state="load_error", error={"what": "no BTF"}))
    assert "collector execve: load_error: no BTF\n" in text


def test_the_follower_forgets_maps_and_agents_beyond_its_limit() -> None:
    follower = Follower(most=2)
    origins = [Origin(f"agent{i}", "h", "b", 1) for i in range(3)]
    for origin in origins:
        follower.show(snapshot(10, {"sh": 10}, origin=origin))
    rows = [
        follower.show(snapshot(12, {"sh": 30}, origin=origin)).splitlines()[2]
        for origin in (origins[2], origins[0])
    ]
    assert [row.split()[-1] for row in rows] == ["10", "\N{EN DASH}"]


def test_text_needs_no_rich_and_no_terminal() -> None:
    """rich is for colour on a terminal only; it costs an agent's worker memory otherwise."""
    code = (
        "import sys, bpfleet.views as v\n"
        "from sample_records import snapshot\n"
        "v.Follower().show(snapshot(1))\n"
        "assert 'rich' not in sys.modules"
    )
    path = os.pathsep.join(one for one in sys.path if one)
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": path})


def test_a_schema_shows_nothing_in_a_table() -> None:
    assert Follower().show(COUNTS) == ""
    assert msgpack.unpackb(encode_schema(COUNTS).data)["kind"] == "schema"

"""The benchmarks work: each gives rows that make sense, and all peers read what we read.

How fast anything is, is no matter here."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from bench.collectors import COMPARED, Compared, measure  # noqa: E402
from bench.collectors import run as run_collectors  # noqa: E402
from bench.maps import Shape, digest, filled  # noqa: E402
from bench.peer import Bpftool, PeerError, bcc_reader, c_reader  # noqa: E402
from bench.reading import compare  # noqa: E402
from bench.rounds import Contender, interleave  # noqa: E402
from bench.tables import Table, si  # noqa: E402
from bench.workloads import Unavailable  # noqa: E402

from bpfleet.plugins import Plugins  # noqa: E402
from test_docs import measured  # noqa: E402

SHAPES = [
    Shape("hash", 8, 16),
    Shape("hash", 4, 8),
    Shape("hash", 8, 16, slack=10),
    Shape("lru_hash", 64, 8, slack=1.3),
    Shape("percpu_hash", 8, 16),
    Shape("array", 4, 8),
]


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def results(name: str, tmp_path: Path, *options: str) -> list[list[dict[str, Any]]]:
    """The numbers of each table that a tiny run gives."""
    done = bench(name, *options, "--quick", "--json", str(tmp_path / "found.json"))
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["machine"]["cpus"] >= 1
    assert found["machine"]["kernel"] in done.stdout
    assert all(table["title"] in done.stdout for table in found[name])
    return [table["results"] for table in found[name]]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_every_peer_reads_the_rows_that_we_read(shape: Shape) -> None:
    with filled(shape, 700) as made, c_reader(made) as c, bcc_reader(made) as bcc:
        expected = digest(made.reader("walk").read().columns)
        assert expected[0] == made.rows == 700
        for method in ("ladder", "batch", "key"):
            assert digest(made.reader(method).read().columns) == expected, method
        for method in ("batch:64", "batch:4096", "batch:0", "key", "batch+fold:64", "key+fold"):
            assert c.digest(method) == expected, method
            assert c.time(method, 3)[1] == 700, method
        assert bcc.digest("items") == expected
        assert bcc.time("items", 1)[1] == 700
        if not shape.per_cpu:
            assert bcc.digest("items_lookup_batch") == expected
        assert Bpftool(made).digest() == expected


def test_a_checksum_tells_one_changed_number_and_does_not_mind_order() -> None:
    keys, counts = np.arange(1000, dtype="<u8"), np.arange(1000, dtype="<u8") * 7
    assert digest([keys[::-1], counts[::-1]]) == digest([keys, counts])
    changed = counts.copy()
    changed[500] += 1
    assert digest([keys, changed]) != digest([keys, counts])
    assert digest([keys, np.roll(counts, 1)]) != digest([keys, counts])


def test_peers_that_read_other_rows_than_we_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with filled(Shape("hash", 8, 16), 500) as other:
        monkeypatch.setattr("bench.reading.c_reader", lambda made: c_reader(other))
        with pytest.raises(PeerError, match="not the same rows"):
            compare(Shape("hash", 8, 16), 300, rounds=1, slow=False)


def test_a_peer_that_ends_says_why() -> None:
    with filled(Shape("hash", 8, 16), 10) as made, c_reader(made) as peer:
        with pytest.raises(PeerError, match="nonsense"):
            peer.time("nonsense line", 1)
        with pytest.raises(PeerError, match="the peer ended"):
            peer.time("key", 1)


def test_reading_gives_rates_for_all_and_one_reference(tmp_path: Path) -> None:
    *tables, summary = results("reading", tmp_path)
    assert summary == []
    for rows in tables:
        assert [row["ratio_to_c_batch"] for row in rows if row["reference"]] == [1.0]
        names = " ".join(row["name"] for row in rows)
        for peer in ("bpfleet walk", "bpfleet batch", "C batch", "C by key", "bcc items()", "bpftool"):
            assert peer in names
        for row in rows:
            assert 0 < row["min_ns"] <= row["median_ns"] <= row["max_ns"]
            assert row["rounds"] >= 3


def test_delay_counts_sleeps_while_each_method_reads(tmp_path: Path) -> None:
    [rows] = results("delay", tmp_path)
    assert [row["method"] for row in rows] == ["nothing", "walk", "batch", "ladder"]
    assert all(row["sleeps"] > 0 and row["median_ns"] <= row["most_ns"] for row in rows)
    assert [row["reads"] > 0 for row in rows] == [False, True, True, True]


def test_draining_gives_rates_for_us_and_for_callbacks(tmp_path: Path) -> None:
    for rows in results("draining", tmp_path):
        names = [row["name"].partition(",")[0] for row in rows]
        assert names == ["bpfleet", "C", "Python", "bcc"]
        assert rows[1]["ratio_to_c"] == 1.0
        assert all(0 < row["min_ns"] <= row["median_ns"] <= row["max_ns"] for row in rows)


def test_a_tick_is_timed_with_all_of_its_rows_in_frames(tmp_path: Path) -> None:
    [rows] = results("tick", tmp_path)
    assert {(row["rows"], row["method"]) for row in rows} == {
        (count, method) for count in (1_000, 5_000) for method in ("walk", "ladder")
    }
    for row in rows:
        assert row["bytes"] >= row["rows"] * 24
        assert row["frames"] >= 1
        assert row["read_ns"] > 0
        assert row["tick_ns"] > 0


def test_wire_compares_three_ways_over_the_same_rows(tmp_path: Path) -> None:
    [rows] = results("wire", tmp_path)
    assert [row["name"] for row in rows] == ["columns", "columns, to dicts", "a dict per row"]
    assert all(row["encode_ns"] > 0 and row["decode_ns"] > 0 for row in rows)
    assert rows[0]["bytes"] < rows[2]["bytes"]


def test_the_agent_is_measured_while_it_delivers_snapshots(tmp_path: Path) -> None:
    [run], [startup], beside, [everything] = results("agent", tmp_path)
    assert set(run["pss_by_process"]) == {"bpfleet.supervisor", "bpfleet.worker"}
    assert all(size > 1 << 20 for size in run["pss_by_process"].values())
    assert 0 < run["cpu_share"] < 2
    assert run["snapshots"] >= 15  # five maps, each 0.5 s, for 3 s
    assert set(startup["first_s"]) == {"execve", "cputime", "dnslat"}
    assert beside[0]["name"] == "bpfleet"
    assert {"libbpf-tools", "bcc tools"} == {one["group"] for one in beside[1:]}
    assert all(one["pss_bytes"] > 100_000 for one in beside)
    assert everything["snapshots"] > run["snapshots"]
    assert everything["pss_bytes"] > run["pss_bytes"]


def test_cost_counts_the_same_events_for_us_and_for_the_tools(tmp_path: Path) -> None:
    [rows] = results("cost", tmp_path)
    assert [(row["name"], row["event"]) for row in rows] == [
        ("bpfleet execve", "exec"),
        ("bpfleet cputime", "switch"),
        ("execsnoop", "exec"),
        ("cpudist", "switch"),
    ]
    for row in rows:
        assert row["ns_per_event"] > 0
        assert row["events"] >= (50 if row["event"] == "exec" else 4_000)


def test_a_collector_and_its_tool_are_measured_at_the_same_events() -> None:
    ours, theirs, events, note = measure(COMPARED[0], 2, 20_000)
    assert len(ours.rounds) == len(theirs.rounds) == 2, note
    assert min(ours.rounds) > 0
    assert min(theirs.rounds) > 0
    assert events >= 20_000


def test_a_collector_without_a_tool_is_measured_alone() -> None:
    (alone,) = [one for one in COMPARED if one.collector == "pagefaults"]
    ours, theirs, events, note = measure(alone, 2, 5_000)
    assert min(ours.rounds) > 0
    assert (theirs.rounds, note) == ([], "")
    assert events >= 5_000


RARE = [one for one in COMPARED if not one.workload.startswith(("events", "load"))]


@pytest.mark.parametrize("one", RARE, ids=lambda one: f"{one.collector}, {one.event}")
def test_rare_events_and_those_of_chosen_programs_are_made(one: Compared) -> None:
    try:
        ours, _, events, _ = measure(replace(one, tool=""), 2, 25)
    except Unavailable as error:
        pytest.skip(str(error))
    assert min(ours.rounds) > 0
    # A machine's own kills, lines or segments may come on top.
    assert 25 <= events <= 60


def test_what_can_not_be_made_here_is_told_and_costs_no_other_row(monkeypatch: pytest.MonkeyPatch) -> None:
    (of_go,) = [one for one in COMPARED if one.workload.startswith("calls.go")]
    alone = [replace(of_go, tool=""), replace(COMPARED[0], tool="")]
    monkeypatch.setattr("bench.collectors.COMPARED", alone)
    monkeypatch.setattr("shutil.which", lambda name, **_: None)
    [table] = run_collectors(True)
    assert [row["collector"] for row in table.data] == [COMPARED[0].collector]
    assert "not here: gouprobe, call: there is no Go to compile calls.go" in table.notes


def test_only_the_collectors_that_are_named_are_measured(tmp_path: Path) -> None:
    [rows] = results("collectors", tmp_path, "--collector", "drops", "--collector", "softirqs")
    assert [row["collector"] for row in rows] == ["softirqs", "drops"]
    assert all(row["events"] > 0 for row in rows)


def test_a_collector_that_is_not_measured_is_a_wrong_use() -> None:
    done = bench("collectors", "--collector", "nothing")
    assert done.returncode == 2
    assert "collector 'nothing' is not measured" in done.stderr


def test_the_documentation_shows_the_rows_that_are_measured() -> None:
    shown = {(row[0], row[1], row[5]) for rows in measured().values() for row in rows}
    assert shown == {(one.collector, one.event, one.tool.partition(" ")[0] or "-") for one in COMPARED}


def test_every_built_in_collector_is_measured_and_no_other() -> None:
    built_in = [one for one in Plugins().all if one.distribution.startswith("bpfleet ")]
    assert {one.collector for one in COMPARED} == {one.name for one in built_in if one.kind == "collector"}


def test_storing_gives_rows_a_second_of_both_stores_and_their_peers(tmp_path: Path) -> None:
    [rows] = results("storing", tmp_path)
    names = [row["name"] for row in rows]
    assert names[:2] == ["bpfleet, store duckdb", "bpfleet, store clickhouse"]
    assert len(names) == 7
    assert all(row["rows_per_s"] > 0 and row["ratio"] > 0 for row in rows)
    assert [row["name"] for row in rows if row["ratio"] == 1] == [names[2], names[3]]


def test_an_unknown_benchmark_is_a_wrong_use_that_names_what_there_is() -> None:
    done = bench("raeding")
    assert done.returncode == 2
    assert "no benchmark 'raeding'" in done.stderr
    assert "reading, delay, draining, tick, wire, agent, cost" in done.stderr


def test_a_slow_contender_gets_fewer_rounds_and_a_fast_one_many_repeats() -> None:
    asked: list[tuple[str, int]] = []

    def run(name: str, ns: int, repeats: int) -> int:
        asked.append((name, repeats))
        return ns * repeats

    fast = Contender("fast", lambda repeats: run("fast", 1_000_000, repeats))
    slow = Contender("slow", lambda repeats: run("slow", 500_000_000, repeats), least=4)
    interleave([fast, slow], 15)
    assert len(fast.times) == 15
    assert fast.repeats == 20
    assert fast.median == 1_000_000
    assert slow.times == [500_000_000] * 4
    between = [index for index, (name, _) in enumerate(asked) if name == "slow"]
    assert max(b - a for a, b in itertools.pairwise(between)) < 8, "spread over the fast one's"


def test_the_first_run_of_a_very_slow_contender_counts() -> None:
    slow = Contender("slow", lambda repeats: 2_000_000_000 * repeats, least=3)
    interleave([slow], 15)
    assert len(slow.times) == 3


def test_a_table_is_aligned_and_its_notes_follow() -> None:
    table = Table("title", ("name", "number"), [["a", "1"], ["longer", "1000"]], ["a note"])
    assert str(table).splitlines() == [
        "title",
        "",
        "  name    number",
        "  ------  ------",
        "  a            1",
        "  longer    1000",
        "  * a note",
    ]


@pytest.mark.parametrize(
    ("number", "text"),
    [(0.5, "0.5"), (999, "999"), (1234, "1.23 k"), (17_100_000, "17.1 M"), (2e12, "2000 G")],
)
def test_numbers_are_short(number: float, text: str) -> None:
    assert si(number) == text

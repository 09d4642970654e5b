"""A plugin that is broken in any way costs itself only, and its message names plugin, place and remedy."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent_process import Agent, run
from distributions import collector_module, distribution, program, sink_module

Start = Callable[..., Agent]

GOOD = '[agent]\ninterval = "100ms"\nload_timeout = "10s"\n[collectors.execve]\n'


def state_of(agent: Agent, kind: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(one for one in agent.status()[kind] if one["name"] == name)
    return found


def expect(agent: Agent, name: str, state: str, *words: str, kind: str = "collectors") -> None:
    """The others run; this one is in `state`, and stderr has all `words` and a remedy."""
    agent.next_snapshot("execve", "counts")
    agent.wait_for(lambda: any(one["name"] == name for one in agent.status()[kind]))
    agent.wait_for(lambda: state_of(agent, kind, name)["state"] == state)
    error = state_of(agent, kind, name)["error"]
    text = " ".join(map(str, error.values()))
    for word in (*words, name):
        assert word in text or word in agent.stderr, f"{word!r} is missing in: {error}\n{agent.stderr}"
    assert error["remedy"]
    assert "Traceback" not in agent.stderr
    agent.next_snapshot("execve", "counts")


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("import no_such_module", ["ModuleNotFoundError", "no_such_module", "bad.py:1"]),
        ("x = 1\nraise RuntimeError('boom')", ["RuntimeError", "boom", "bad.py:2"]),
        ("def broken(:\n", ["SyntaxError", "bad.py:1"]),
        ("import sys\nsys.exit(3)", ["SystemExit", "bad.py:2"]),
    ],
    ids=["missing module", "raises", "syntax error", "exits"],
)
def test_an_import_error(start_agent: Start, tmp_path: Path, module: str, words: list[str]) -> None:
    environment = distribution(tmp_path, "bad", {"collector.bad": "bad"}, module)
    expect(start_agent(GOOD + "[collectors.bad]", **environment), "bad", "import_error", "bad 1.0", *words)


def test_a_misspelt_hook(start_agent: Start, tmp_path: Path) -> None:
    module = "import bpfleet\n@bpfleet.hookimpl\ndef bpfleet_colectors():\n    return []\n"
    environment = distribution(tmp_path, "bad", {"collector.bad": "bad"}, module)
    agent = start_agent(GOOD + "[collectors.bad]", **environment)
    expect(agent, "bad", "import_error", "bpfleet_colectors", "did you mean 'bpfleet_collectors'", "bad 1.0")


def test_a_hook_that_is_not_marked(start_agent: Start, tmp_path: Path) -> None:
    environment = distribution(
        tmp_path, "bad", {"collector.bad": "bad"}, "def bpfleet_collectors():\n    return []\n"
    )
    agent = start_agent(GOOD + "[collectors.bad]", **environment)
    expect(agent, "bad", "import_error", "bpfleet_collectors", "@bpfleet.hookimpl")


def test_a_hook_with_an_argument_that_there_is_not(start_agent: Start, tmp_path: Path) -> None:
    module = "import bpfleet\n@bpfleet.hookimpl\ndef bpfleet_collectors(verbose):\n    return []\n"
    environment = distribution(tmp_path, "bad", {"collector.bad": "bad"}, module)
    expect(start_agent(GOOD + "[collectors.bad]", **environment), "bad", "import_error", "verbose")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return [42]", ["int", "Collector"]),
        ("return 1 / 0", ["ZeroDivisionError", "bad.py:4"]),
        ("return []", []),
    ],
    ids=["returns a number", "raises", "returns nothing"],
)
def test_a_hook_that_does_not_give_a_collector(
    start_agent: Start, tmp_path: Path, body: str, words: list[str]
) -> None:
    module = f"import bpfleet\n@bpfleet.hookimpl\ndef bpfleet_collectors():\n    {body}\n"
    environment = distribution(tmp_path, "bad", {"collector.bad": "bad"}, module)
    expect(start_agent(GOOD + "[collectors.bad]", **environment), "bad", "import_error", "bad 1.0", *words)


def test_another_major_version_of_the_api_is_listed_and_never_imported(
    start_agent: Start, tmp_path: Path
) -> None:
    imported = tmp_path / "imported"
    module = f"open({str(imported)!r}, 'w')"
    environment = distribution(tmp_path, "bad", {"collector.bad": "bad"}, module, group="bpfleet.v2")
    agent = start_agent(GOOD + "[collectors.bad]", **environment)
    expect(agent, "bad", "api_mismatch", "version 2 of the plugin API", "bpfleet.v1", "bad 1.0")
    listed = run("plugins", "--config", str(agent.config), env={**os.environ, **environment})
    assert "api_mismatch" in listed.stdout
    assert listed.returncode == 2
    assert not imported.exists()


def test_two_distributions_that_offer_the_same_name(start_agent: Start, tmp_path: Path) -> None:
    distribution(tmp_path, "bad", {"collector.bad": "bad"}, "")
    environment = distribution(tmp_path, "worse", {"collector.bad": "worse"}, "")
    agent = start_agent(GOOD + "[collectors.bad]", **environment)
    expect(agent, "bad", "import_error", "bad 1.0", "worse 1.0", "uninstall one of them")


def test_a_schema_that_disagrees_shows_both_layouts(start_agent: Start, tmp_path: Path) -> None:
    source = tmp_path / "bad.bpf.c"
    source.write_text(program())
    maps = '(Map("hits", key=(label("pid", "u64"),), value=(counter("hits", "s64"),)),)'
    environment = distribution(
        tmp_path, "bad", {"collector.bad": "bad"}, collector_module("bad", source, maps=maps)
    )
    agent = start_agent(GOOD + "[collectors.bad]", **environment)
    expect(
        agent,
        "bad",
        "load_error",
        "map 'hits'",
        "declared 8 bytes, compiled 4 bytes",
        "'hits': declared s64, compiled u64",
        "key declared:",
        "key compiled:",
    )


def test_a_map_that_is_not_in_the_program(start_agent: Start, tmp_path: Path) -> None:
    source = tmp_path / "bad.bpf.c"
    source.write_text(program())
    maps = '(Map("misses", key=(label("pid", "u32"),), value=(counter("hits"),)),)'
    environment = distribution(
        tmp_path, "bad", {"collector.bad": "bad"}, collector_module("bad", source, maps=maps)
    )
    agent = start_agent(GOOD + "[collectors.bad]", **environment)
    expect(agent, "bad", "load_error", "'misses'", "the program's maps are: hits")


def test_a_program_that_the_verifier_refuses_shows_the_telling_lines(
    start_agent: Start, tmp_path: Path
) -> None:
    source = tmp_path / "bad.bpf.c"
    source.write_text(program("__u32 key = 0; return *(int *)bpf_map_lookup_elem(&hits, &key);"))
    environment = distribution(tmp_path, "bad", {"collector.bad": "bad"}, collector_module("bad", source))
    agent = start_agent(GOOD + "[collectors.bad]", **environment)
    expect(agent, "bad", "load_error", "verifier", "bad.bpf", "map_value_or_null")


def test_a_source_that_does_not_compile_shows_the_line(start_agent: Start, tmp_path: Path) -> None:
    source = tmp_path / "bad.bpf.c"
    source.write_text(program("this is no C"))
    environment = distribution(tmp_path, "bad", {"collector.bad": "bad"}, collector_module("bad", source))
    agent = start_agent(GOOD + "[collectors.bad]", **environment)
    expect(agent, "bad", "load_error", "clang refused", "bad.bpf.c:14", "error:")


def test_a_bcc_source_that_does_not_compile_shows_the_line(start_agent: Start, tmp_path: Path) -> None:
    source = tmp_path / "bad.bpf.c"
    source.write_text("BPF_HASH(hits, u32, u64);\nTRACEPOINT_PROBE(sched, sched_process_exec) { oops; }\n")
    environment = distribution(
        tmp_path, "bad", {"collector.bad": "bad"}, collector_module("bad", source, kind="bcc")
    )
    agent = start_agent(GOOD + "[collectors.bad]", **environment)
    expect(agent, "bad", "load_error", "oops", "error:")


def test_a_tracepoint_that_there_is_not(start_agent: Start, tmp_path: Path) -> None:
    source = tmp_path / "bad.bpf.c"
    source.write_text(program().replace("tp_btf/sched_process_exec", "tracepoint/sched/no_such_event"))
    environment = distribution(tmp_path, "bad", {"collector.bad": "bad"}, collector_module("bad", source))
    agent = start_agent(GOOD + "[collectors.bad]", **environment)
    expect(agent, "bad", "load_error", "on_exec", "no_such_event")


def hanging_loader(start_agent: Start, tmp_path: Path, timeout: str) -> Agent:
    """A collector whose source is a pipe that nobody writes to."""
    os.mkfifo(tmp_path / "bad.bpf.c")
    environment = distribution(
        tmp_path, "bad", {"collector.bad": "bad"}, collector_module("bad", tmp_path / "bad.bpf.c")
    )
    return start_agent(GOOD.replace("10s", timeout) + "[collectors.bad]", **environment)


def test_a_loader_that_hangs_is_given_up(start_agent: Start, tmp_path: Path) -> None:
    agent = hanging_loader(start_agent, tmp_path, "3s")
    expect(agent, "bad", "load_error", "longer than 3 s", "load_timeout")


def test_a_loader_that_is_killed(start_agent: Start, tmp_path: Path) -> None:
    agent = hanging_loader(start_agent, tmp_path, "25s")

    def only_the_hanging_one() -> int:
        before = agent.children("bpfleet.loader")
        time.sleep(1)
        return before[0] if len(before) == 1 and agent.children("bpfleet.loader") == before else 0

    os.kill(agent.wait_for(only_the_hanging_one), signal.SIGKILL)
    expect(agent, "bad", "load_error", "SIGKILL")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ('intervall = "1s"', ["intervall", "did you mean 'interval'", "[collectors.cputime]"]),
        ("interval = 5", ["interval", 'such as "10s"']),
        ('read = ["walkk"]', ["walkk", "batch"]),
    ],
)
def test_settings_that_are_wrong(start_agent: Start, settings: str, words: list[str]) -> None:
    agent = start_agent(GOOD + f"[collectors.cputime]\n{settings}\n")
    expect(agent, "cputime", "config_error", *words)


def test_a_collector_that_is_not_installed(start_agent: Start) -> None:
    agent = start_agent(GOOD + "[collectors.cputme]")
    expect(agent, "cputme", "config_error", "did you mean 'cputime'")


def test_a_sink_that_raises_when_opened(start_agent: Start, tmp_path: Path) -> None:
    environment = distribution(
        tmp_path, "bad", {"sink.bad": "bad"}, sink_module("bad", init="raise KeyError('oops')")
    )
    agent = start_agent(GOOD + "[sinks.bad]", **environment)
    expect(agent, "bad", "quarantined", "KeyError", "oops", "[sinks.bad]", kind="sinks")


def test_a_sink_that_raises_when_written_to_loses_its_own_records_and_says_so(
    start_agent: Start, tmp_path: Path
) -> None:
    environment = distribution(
        tmp_path, "bad", {"sink.bad": "bad"}, sink_module("bad", write="raise ValueError('oops')")
    )
    agent = start_agent(
        GOOD.replace("[coll", 'status_interval = "200ms"\n[coll') + "[sinks.bad]", **environment
    )
    expect(agent, "bad", "quarantined", "ValueError", "oops", kind="sinks")
    agent.wait_for(lambda: state_of(agent, "sinks", "bad")["dropped"] > 0)
    seqs = [one["seq"] for one in agent.records if one["kind"] in ("snapshot", "status")]
    assert seqs == list(range(1, len(seqs) + 1)), "the other sink missed records"


def test_a_sink_that_blocks_delays_nobody(start_agent: Start, tmp_path: Path) -> None:
    environment = distribution(
        tmp_path, "bad", {"sink.bad": "bad"}, sink_module("bad", write="time.sleep(3600)")
    )
    agent = start_agent(GOOD.replace("[coll", 'drain = "1s"\n[coll', 1) + "[sinks.bad]", **environment)
    first = agent.next_snapshot("execve", "counts")
    time.sleep(1)
    last = agent.next_snapshot("execve", "counts")
    assert last["seq"] - first["seq"] >= 10
    agent.stop()
    assert "were not delivered" in agent.stderr


def test_a_slow_sink_is_told_of_what_it_missed(start_agent: Start, tmp_path: Path) -> None:
    got = tmp_path / "state" / "got"
    module = sink_module(
        "bad",
        write=f"time.sleep(0.4), [open({str(got)!r}, 'ab').write(bytes(f.data)) for f in frames]",
    )
    environment = distribution(tmp_path, "bad", {"sink.bad": "bad"}, module)
    agent = start_agent(GOOD.replace("100ms", "10ms") + '[sinks.bad]\nqueue = "2kB"\n', **environment)
    agent.wait_for(lambda: got.exists() and got.stat().st_size > 20000)
    agent.stop()
    from bpfleet.wire import Decoder, Gap, Snapshot, Status, read_file

    decoder = Decoder()
    records = [decoder.decode(frame) for _, frame in read_file(got)]
    gaps = [one for one in records if isinstance(one, Gap)]
    assert gaps
    assert {gap.reason for gap in gaps} == {"queue_full"}
    told = {seq for gap in gaps for seq in range(gap.first, gap.last + 1)}
    there = {one.seq for one in records if isinstance(one, Snapshot | Status)}
    assert told.isdisjoint(there)
    assert told | there == set(range(1, max(told | there) + 1)), "a record was lost and no gap tells of it"


def test_an_unknown_sink(start_agent: Start) -> None:
    agent = start_agent(GOOD + "[sinks.fil]")
    expect(agent, "fil", "config_error", "did you mean 'file'", "[sinks.fil]", kind="sinks")

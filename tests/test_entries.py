"""What user space puts in before a program is attached: entries of maps, variables; checked by type."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent_process import Agent, run
from distributions import distribution
from two_way_programs import COUNTED, TOLD, program_file

Start = Callable[..., Agent]

PLUGIN = """
from pathlib import Path
from bpfleet import Collector, CollectorSettings, Map, core, counter, hookimpl, label

class Settings(CollectorSettings, frozen=True, kw_only=True):
    paths: tuple[str, ...] = ()

@hookimpl
def bpfleet_collectors():
    return [Collector(
        name="starts", version="1", help="", program=core(Path(r"{source}")), settings=Settings,
        maps=(Map("counts", key=(label("path", "char[64]"),), value=(counter("count"),)),),
        entries=lambda settings: {{"counts": {entries}}},
    )]
"""


def starts_agent(start_agent: Start, directory: Path, entries: str, paths: list[str]) -> Agent:
    source = directory / "starts.bpf.c"
    source.write_text(COUNTED)
    module = PLUGIN.format(source=source, entries=entries)
    environment = distribution(directory, "starts", {"collector.starts": "starts"}, module)
    config = f'[agent]\ninterval = "100ms"\n[collectors.starts]\npaths = {json.dumps(paths)}\n'
    return start_agent(config, **environment)


def once(directory: Path, program: Path) -> Any:
    config = directory / "once.toml"
    config.write_text(f'[agent]\nstate = "{directory}/state"\n')
    return run("once", str(program), "--after", "100ms", "--format", "json", "--config", str(config))


def rows_of(printed: str, name: str) -> list[dict[str, Any]]:
    snapshots = [json.loads(line) for line in printed.splitlines()]
    (found,) = [one for one in snapshots if one["kind"] == "snapshot" and one["map"] == name]
    rows: list[dict[str, Any]] = found["rows"]
    return rows


def program_of(directory: Path, name: str) -> Path:
    made = directory / f"{name}{os.getpid()}"
    made.write_bytes(Path("/bin/true").read_bytes())
    made.chmod(0o755)
    return made


def test_counts_of_seeded_paths_equal_the_number_of_programs_started(
    start_agent: Start, shared_path: Path, tmp_path: Path
) -> None:
    one, other, third = (program_of(shared_path, name) for name in ("one", "two", "three"))
    entries = "{path: 0 for path in settings.paths}"
    agent = starts_agent(start_agent, tmp_path, entries, [str(one), str(other)])
    # All that is ever in the map is what was put in first, and it is there in the first snapshot.
    first = agent.wait_for(lambda: agent.snapshots("starts", "counts"))[0]
    assert {row["path"]: row["count"] for row in first["rows"]} == {str(one): 0, str(other): 0}
    for path, times in ((one, 17), (other, 5), (third, 9)):
        for _ in range(times):
            subprocess.run([path], check=True)
    last = agent.next_snapshot("starts", "counts")
    assert {row["path"]: row["count"] for row in last["rows"]} == {str(one): 17, str(other): 5}


def test_a_file_without_python_has_its_entries_in_the_words_beside_it(
    start_agent: Start, shared_path: Path, tmp_path: Path
) -> None:
    one = program_of(shared_path, "one")
    words = f'[[entries.counts]]\nkey = "{one}"\nvalue = 100\n[[entries.counts]]\nkey = "/none"\n'
    program_file(tmp_path / "programs", "starts", COUNTED, words)
    agent = start_agent(f'[agent]\ninterval = "100ms"\nprograms = "{tmp_path}/programs"\n')
    agent.next_snapshot("starts", "counts")
    for _ in range(12):
        subprocess.run([one], check=True)
    last = agent.next_snapshot("starts", "counts")
    assert {row["key"]: row["value"] for row in last["rows"]} == {str(one): 112, "/none": 0}


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ("{b'x' * 10: 0}", ["the key is 10 bytes long, and must be 64", "map 'counts'", "number 1"]),
        ("{'/bin/ls': 0, 'x' * 65: 0}", ["the key is 65 bytes long, and has room for 64", "number 2"]),
        ("{7: 0}", ["the key is 7, and must be text", "char[64]"]),
        ("{'/bin/ls': -1}", ["-1 does not fit the value (u64)", "from 0 to 18446744073709551615"]),
        ("{'/bin/ls': b'1234'}", ["the value is 4 bytes long, and must be 8"]),
        ("{str(n): 0 for n in range(5)}", ["takes no entry '4'", "room for 4 entries"]),
        ("0", ["the plugin's `entries` raised"]),
    ],
)
def test_entries_that_do_not_fit_cost_the_collector_and_name_both_sizes(
    start_agent: Start, tmp_path: Path, entries: str, words: list[str]
) -> None:
    agent = starts_agent(start_agent, tmp_path, entries, [])
    agent.wait_for(lambda: "does not run" in agent.stderr)
    agent.wait_for(lambda: "remedy" in agent.stderr)
    for word in (*words, "collector 'starts'"):
        assert word in agent.stderr
    assert "Traceback" not in agent.stderr


def test_places_that_can_not_be_made_of_the_settings_cost_the_collector(
    start_agent: Start, tmp_path: Path
) -> None:
    source = tmp_path / "starts.bpf.c"
    source.write_text(COUNTED)
    module = PLUGIN.format(source=source, entries="{}").replace(
        'name="starts",', 'name="starts", attach=lambda settings: settings.nowhere,'
    )
    assert "nowhere" in module
    environment = distribution(tmp_path, "starts", {"collector.starts": "starts"}, module)
    agent = start_agent("[collectors.starts]\n", **environment)
    agent.wait_for(lambda: "does not run" in agent.stderr)
    assert "the plugin's `attach` raised AttributeError" in agent.stderr
    assert "Traceback" not in agent.stderr


def test_a_declared_key_of_the_wrong_size_names_both_sizes(start_agent: Start, tmp_path: Path) -> None:
    source = tmp_path / "starts.bpf.c"
    source.write_text(COUNTED)
    module = PLUGIN.format(source=source, entries="{}").replace("char[64]", "char[16]")
    environment = distribution(tmp_path, "starts", {"collector.starts": "starts"}, module)
    agent = start_agent("[collectors.starts]\n", **environment)
    agent.wait_for(lambda: "does not run" in agent.stderr)
    assert "declared 16 bytes, compiled 64 bytes" in agent.stderr


def test_values_of_every_kind_reach_variables_and_maps(tmp_path: Path) -> None:
    words = """
[knobs]
only_tgid = 0xffffffff
fixed = { low = 3, high = 4 }
[data]
threshold = 7
tag = "hello"
paused = true
shift = -300
few = [9, 8, 7, 6]
"limits.low" = 11
[[entries.weights]]
key = 64
value = { times = 2, plus = 1 }
[[entries.pairs]]
key = { pid = 5, comm = "cat" }
value = 77
[[entries.each_cpu]]
key = 1
value = 3
"""
    done = once(tmp_path, program_file(tmp_path / "programs", "told", TOLD, words))
    assert done.returncode == 0, done.stderr
    (data,) = rows_of(done.stdout, ".data")
    assert (data["threshold"], data["tag"], data["shift"]) == (7, "hello", -300)
    assert data["few"] == [9, 8, 7, 6]
    # Of a struct, what is not named stays as the program has it.
    assert (data["limits.low"], data["limits.high"]) == (11, 1000)
    (bss,) = rows_of(done.stdout, ".bss")
    assert bss["paused"] is True
    assert rows_of(done.stdout, "weights") == [{"key": 64, "times": 2, "plus": 1}]
    assert rows_of(done.stdout, "pairs") == [{"pid": 5, "comm": "cat", "value": 77}]
    # Every CPU has it, and the snapshot sums them.
    assert [row["value"] for row in rows_of(done.stdout, "each_cpu")] == [0, 3 * (os.cpu_count() or 0)]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("[data]\nthreshold = -1\n", ["-1 does not fit 'threshold' (u32)", "from 0 to 4294967295"]),
        ("[data]\nshift = 40000\n", ["40000 does not fit 'shift' (s16)", "from -32768 to 32767"]),
        ("[data]\nshift = 1.5\n", ["'shift' is 1.5, and must be a number"]),
        ('[data]\nthreshold = "7"\n', ["'threshold' is '7', and must be a number"]),
        ('[data]\ntag = "seventeen letters"\n', ["'tag' is 17 bytes long, and has room for 16"]),
        ("[data]\nfew = [1, 2, 3]\n", ["'few' is [1, 2, 3], and must be 4 numbers"]),
        ("[data]\nlimits = 4\n", ["'limits' is a struct, and can't be 4", "low (u32), high (u32)"]),
        ("[data]\nlimits = { hgih = 4 }\n", ["'limits' has no member 'hgih'", "did you mean 'high'?"]),
        ("[data]\ntreshold = 4\n", ["no variable 'treshold'", "did you mean 'threshold'?"]),
        ("[data]\nonly_tgid = 4\n", ["no variable 'only_tgid'", "a global variable, without const"]),
        ("[knobs]\nthreshold = 4\n", ["no knob 'threshold'", "const volatile", "only_tgid"]),
        ("[[entries.weights]]\nkey = 1\nvalue = { times = 1 }\n", ["the value lacks 'plus'", "plus (u32)"]),
        ("[[entries.weights]]\nkey = 1\nvalue = 3\n", ["the value is 3, and must be a table of members"]),
        ("[[entries.wieghts]]\nkey = 1\n", ["no map 'wieghts'", "weights"]),
        ("[[entries.line]]\nkey = 1\n", ["a map of type queue takes no entries"]),
        ("[[entries.each_cpu]]\nkey = 2\n", ["takes no entry 2", "room for 2 entries, with keys from 0"]),
    ],
)
def test_a_value_that_does_not_fit_is_named_with_its_type(
    tmp_path: Path, words: str, said: list[str]
) -> None:
    done = once(tmp_path, program_file(tmp_path / "programs", "told", TOLD, words))
    assert done.returncode != 0
    for word in (*said, "remedy"):
        assert word in done.stderr
    assert "Traceback" not in done.stderr

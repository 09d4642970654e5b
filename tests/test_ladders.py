"""Alternatives of a program, best first: which is taken, and what is told of the others."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent_process import Agent, run
from distributions import distribution

Start = Callable[..., Agent]

SOURCE = """
#include <bpfleet/bpfleet.h>

__u64 hits = 0;
__u64 twice = 0;

static __always_inline int count(__u64 *counter)
{
	char comm[16];

	bpf_get_current_comm(comm, sizeof(comm));
	if (comm[0] == 'r' && comm[1] == 'u' && comm[2] == 'n' && comm[3] == 'g' && comm[4] == 'e')
		__sync_fetch_and_add(counter, 1);
	return 0;
}

/* Loads and can't be attached: there is no such tracepoint. */
SEC("tracepoint/sched/no_such_event")
int nowhere(void *ctx) { return count(&hits); }

/* Its place is unknown at load: there is no such type in the kernel. */
SEC("tp_btf/no_such_event")
int untyped(void *ctx) { return count(&hits); }

/* The verifier refuses it. */
SEC("raw_tp/sched_process_exec")
int unsafe(unsigned long long *ctx) { return *(int *)(ctx[0] | 1); }

SEC("raw_tp/sched_process_exec")
int good(void *ctx) { return count(&hits); }

/* Left out unless a ladder asks for it. */
SEC("?raw_tp")
int placed(void *ctx) { return count(&twice); }

/* On a ladder in one test only. */
SEC("tp_btf/sched_process_exec")
int always(void *ctx) { return count(&twice); }

char LICENSE[] SEC("license") = "Dual BSD/GPL";
"""

MODULE = """
from pathlib import Path
from bpfleet import Attach, Collector, core, hookimpl

@hookimpl
def bpfleet_collectors():
    return [Collector(name="probe", version="1", help="", program=core(Path(r"{source}")), ladders={ladders})]
"""


def start(start_agent: Start, directory: Path, ladders: str) -> Agent:
    source = directory / "probe.bpf.c"
    source.write_text(SOURCE)
    environment = distribution(
        directory,
        "probe",
        {"collector.probe": "probe"},
        MODULE.format(source=source, ladders=ladders),
    )
    return start_agent('[agent]\ninterval = "100ms"\n[collectors.probe]\n', **environment)


def counts(agent: Agent) -> tuple[int, int]:
    (row,) = agent.next_snapshot("probe", ".bss")["rows"]
    return row["hits"], row["twice"]


def after_execs(agent: Agent, number: int) -> tuple[int, int]:
    before = counts(agent)
    program = agent.config.with_name("rungexec")  # nobody else starts one of this name
    program.symlink_to("/bin/true")
    for _ in range(number):
        subprocess.run([program], check=True)
    after = counts(agent)
    return after[0] - before[0], after[1] - before[1]


def ladder(agent: Agent) -> dict[str, Any]:
    (collector,) = agent.status()["collectors"]
    assert collector["state"] == "running"
    (said,) = collector["ladders"]
    return dict(said)


def test_the_best_rung_is_taken_and_programs_of_the_others_stay_out(
    start_agent: Start, tmp_path: Path
) -> None:
    rungs = '{"exec": ["good", "nowhere", "untyped", "unsafe"]}'
    agent = start(start_agent, tmp_path, rungs)
    assert after_execs(agent, 13) == (13, 13)
    assert ladder(agent) == {
        "name": "exec",
        "taken": "raw_tp/sched_process_exec",
        "rung": 1,
        "rungs": 4,
        "refused": [],
    }
    (collector,) = agent.status()["collectors"]
    assert [one["name"] for one in collector["programs"]] == ["good", "always"]
    assert "'exec' by raw_tp/sched_process_exec, alternative 1 of 4" in agent.stderr


def test_ladders_may_be_a_function_of_the_settings(start_agent: Start, tmp_path: Path) -> None:
    rungs = '["untyped", "unsafe", "nowhere", "good"]'
    by_settings = f'lambda settings: {{"exec": sorted({rungs}, reverse=not settings.enabled)}}'
    agent = start(start_agent, tmp_path, by_settings)
    assert after_execs(agent, 5) == (5, 5)
    assert ladder(agent)["taken"] == "raw_tp/sched_process_exec"


def test_what_a_function_for_ladders_raises_is_told(start_agent: Start, tmp_path: Path) -> None:
    agent = start(start_agent, tmp_path, "lambda settings: {'exec': [settings.missing]}")
    agent.wait_for(lambda: "does not run" in agent.stderr)
    assert "the plugin's `ladders` raised AttributeError" in agent.stderr
    assert "Traceback" not in agent.stderr


def test_a_rung_is_left_when_it_is_refused_at_load_or_when_it_is_attached(
    start_agent: Start, tmp_path: Path
) -> None:
    agent = start(start_agent, tmp_path, '{"exec": ["nowhere", "untyped", "unsafe", "good"]}')
    assert after_execs(agent, 7) == (7, 7)
    said = ladder(agent)
    assert (said["taken"], said["rung"], said["rungs"]) == ("raw_tp/sched_process_exec", 4, 4)
    nowhere, untyped, unsafe = said["refused"]
    assert nowhere.startswith("nowhere: program 'nowhere' can't be attached: No such file")
    assert untyped.startswith("untyped: this kernel has no 'no_such_event', where program 'untyped'")
    assert "no_such_event" in untyped
    assert unsafe.startswith("unsafe: the kernel's verifier refuses program 'unsafe'")
    for reason in said["refused"]:
        assert f"  | {reason}" in agent.stderr


def test_a_rung_of_several_programs_is_taken_whole_or_not_at_all(start_agent: Start, tmp_path: Path) -> None:
    rungs = '{"exec": [["good", "nowhere"], ["always", "good"]], "other": ["untyped", "unsafe", "placed"]}'
    rungs = rungs.replace('"placed"', 'Attach("placed", "raw_tp", "sched_process_exec")')
    agent = start(start_agent, tmp_path, rungs)
    assert after_execs(agent, 4) == (4, 8)
    (collector,) = agent.status()["collectors"]
    first, second = collector["ladders"]
    assert (first["taken"], first["rung"]) == ("tp_btf/sched_process_exec, raw_tp/sched_process_exec", 2)
    assert first["refused"][0].startswith("good + nowhere: ")
    assert (second["name"], second["rung"]) == ("other", 3)


def test_the_same_program_in_another_place_is_a_rung_too(start_agent: Start, tmp_path: Path) -> None:
    rungs = (
        '{"exec": [Attach("placed", "raw_tp", "no_such_event"), '
        'Attach("placed", "raw_tp", "sched_process_exec"), "nowhere", "untyped", "unsafe"]}'
    )
    agent = start(start_agent, tmp_path, rungs)
    # `always` counts the same events into the same number.
    assert after_execs(agent, 5) == (5, 10)
    said = ladder(agent)
    assert said["taken"] == "raw_tp/sched_process_exec"
    assert said["refused"][0].startswith("placed (raw_tp/no_such_event): program 'placed' can't be attached")


def test_where_none_can_be_had_one_error_lists_every_reason(start_agent: Start, tmp_path: Path) -> None:
    agent = start(start_agent, tmp_path, '{"exec": ["nowhere", "untyped", "unsafe"]}')
    agent.wait_for(lambda: "does not run" in agent.stderr)
    (collector,) = agent.status()["collectors"]
    assert collector["state"] == "load_error"
    assert collector["error"]["what"] == "none of the 3 alternatives of 'exec' can be had"
    reasons = collector["error"]["log"].splitlines()
    assert [one.partition(":")[0] for one in reasons] == ["nowhere", "untyped", "unsafe"]
    assert "Traceback" not in agent.stderr


def file_agent(start_agent: Start, directory: Path, ladders: str) -> Agent:
    folder = directory / "programs"
    folder.mkdir()
    (folder / "probe.bpf.c").write_text(SOURCE)
    (folder / "probe.toml").write_text(f"[ladders]\n{ladders}\n")
    return start_agent(f'[agent]\ninterval = "100ms"\nprograms = "{folder}"\n')


def test_words_beside_a_file_name_alternatives(start_agent: Start, tmp_path: Path) -> None:
    place = '{ program = "placed", kind = "raw_tp", target = "sched_process_exec" }'
    agent = file_agent(start_agent, tmp_path, f'exec = ["nowhere", ["unsafe", "good"], {place}, "untyped"]')
    assert after_execs(agent, 3) == (0, 6)
    said = ladder(agent)
    assert (said["taken"], said["rung"]) == ("raw_tp/sched_process_exec", 3)
    assert said["refused"][1].startswith("unsafe + good: ")


def test_a_file_goes_on_without_a_ladder_of_which_nothing_can_be_had(
    start_agent: Start, tmp_path: Path
) -> None:
    agent = file_agent(start_agent, tmp_path, 'exec = ["nowhere", "untyped", "unsafe"]')
    assert after_execs(agent, 3) == (3, 3)
    said = ladder(agent)
    assert (said["taken"], said["rung"], len(said["refused"])) == ("", 0, 3)
    assert "'exec' by none of 3" in agent.stderr


@pytest.mark.parametrize(
    ("ladders", "words"),
    [
        ('{"exec": ["goood"]}', ["no program 'goood'", "ladder 'exec'", "nowhere, untyped"]),
        ('{"exec": []}', ["ladder 'exec' has no rungs", "best first"]),
        ('{"exec": [[]]}', ["ladder 'exec' has a rung without a program"]),
        ('{"exec": "good"}', ["ladder 'exec'", "list the alternatives"]),
    ],
)
def test_a_ladder_that_is_wrong_is_named(
    start_agent: Start, tmp_path: Path, ladders: str, words: list[str]
) -> None:
    agent = start(start_agent, tmp_path, ladders)
    agent.wait_for(lambda: "does not run" in agent.stderr)
    for word in (*words, "'probe'", "remedy"):
        assert word in agent.stderr
    assert "Traceback" not in agent.stderr


def test_once_names_the_rung_and_a_trial_leaves_nothing_behind(tmp_path: Path) -> None:
    folder = tmp_path / "programs"
    folder.mkdir()
    (folder / "probe.bpf.c").write_text(SOURCE)
    (folder / "probe.toml").write_text('[ladders]\nexec = ["nowhere", "untyped", "unsafe", "good"]\n')
    config = tmp_path / "bpfleet.toml"
    config.write_text(f'[agent]\nstate = "{tmp_path}/state"\nprograms = "{folder}"\n')
    done = run("once", "probe", "--after", "200ms", "--config", str(config), "--format", "json")
    assert done.returncode == 0, done.stderr
    assert "'exec' by raw_tp/sched_process_exec, alternative 4 of 4" in done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["kind"] == "snapshot"
    ours = {"nowhere", "untyped", "unsafe", "good", "always"}
    deadline = time.monotonic() + 20  # the kernel frees a program some time after its last fd is closed
    while ours & loaded_programs() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not ours & loaded_programs()


def test_check_names_the_rung_that_loads(tmp_path: Path) -> None:
    folder = tmp_path / "programs"
    folder.mkdir()
    (folder / "probe.bpf.c").write_text(SOURCE)
    (folder / "probe.toml").write_text('[ladders]\nexec = ["untyped", "unsafe", "good", "nowhere"]\n')
    config = tmp_path / "bpfleet.toml"
    config.write_text(f'[agent]\nstate = "{tmp_path}/state"\nprograms = "{folder}"\n')
    done = run("check", str(config))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "alternatives: exec by good" in done.stdout


def loaded_programs() -> set[str]:
    listed = json.loads(subprocess.run(["bpftool", "-j", "prog"], capture_output=True, check=True).stdout)
    return {one.get("name", "") for one in listed}

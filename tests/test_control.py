"""`bpfleet set`, `get` and `status`: what a running collector is told changes at once, and stays."""

from __future__ import annotations

import grp
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent_process import BPFLEET, Agent, run
from two_way_programs import TOLD, program_file

Start = Callable[..., Agent]


class Told:
    """An agent with the collector `told`, and a process whose writes it counts."""

    def __init__(self, start_agent: Start, directory: Path, more: str = "") -> None:
        self.writer = subprocess.Popen(
            [sys.executable, "-c", WRITER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        words = f"[knobs]\nonly_tgid = {self.writer.pid}\n[maps.weights]\ncontrol = true\n"
        words += "[maps.pairs]\ncontrol = true\n[maps.each_cpu]\ncontrol = true\n"
        words += '[maps.".bss".fields.passed]\nmeaning = "counter"\n'
        words += "[[entries.weights]]\nkey = 100\nvalue = { times = 10, plus = 0 }\n"
        self.program = program_file(directory / "programs", "told", TOLD, words)
        self.agent = start_agent(f'[agent]\ninterval = "100ms"\nprograms = "{directory}/programs"\n{more}')
        self.agent.next_snapshot("told", ".bss")

    def write(self, size: int, times: int) -> None:
        """Have the process write `size` bytes `times` times."""
        assert self.writer.stdin is not None
        assert self.writer.stdout is not None
        self.writer.stdin.write(f"{size} {times}\n")
        assert self.writer.stdout.readline() == "done\n"

    def counted(self) -> tuple[int, int]:
        """(passed, held) of a snapshot from now on."""
        (row,) = self.agent.next_snapshot("told", ".bss")["rows"]
        return row["passed"], row["held"]

    def data(self) -> dict[str, Any]:
        (row,) = self.agent.next_snapshot("told", ".data")["rows"]
        found: dict[str, Any] = row
        return found

    def ask(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run(*arguments, "--config", str(self.agent.config))

    def set(self, *assignments: str) -> str:
        done = self.ask("set", *assignments)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    def end(self) -> None:
        self.writer.kill()
        self.writer.communicate()


WRITER = """
import os, sys
null = os.open("/dev/null", os.O_WRONLY)
for line in sys.stdin:
    size, times = map(int, line.split())
    for _ in range(times):
        os.write(null, b"x" * size)
    os.write(1, b"done\\n")
"""
# "done" itself is a write of five bytes; it counts as one of that size.


@pytest.fixture
def told(start_agent: Start, tmp_path: Path) -> Iterator[Told]:
    made = Told(start_agent, tmp_path)
    yield made
    made.end()


def test_a_changed_threshold_changes_what_is_counted_at_once(told: Told) -> None:
    told.set("told.threshold=50")
    before = told.counted()
    told.write(40, 30)
    told.write(60, 20)
    between = told.counted()
    assert (between[0] - before[0], between[1] - before[1]) == (20, 30 + 2)
    assert told.set("told.threshold=30") == "told.threshold = 30 (was 50)\n"
    told.write(40, 7)
    after = told.counted()
    assert (after[0] - between[0], after[1] - between[1]) == (7, 1)
    assert told.data()["threshold"] == 30


def test_entries_of_a_control_map_are_set_and_deleted(told: Told) -> None:
    before, _ = told.counted()
    told.write(100, 3)
    assert told.set('told.weights[100]={"times": 2, "plus": 5}').startswith("told.weights[100] = ")
    told.write(100, 1)
    told.set('told.weights[64]={"times": 1000, "plus": 0}')
    told.write(64, 2)
    assert told.ask("set", "--delete", "told.weights[100]").stdout.startswith(
        "told.weights[100] deleted (was"
    )
    told.write(100, 1)
    after, _ = told.counted()
    # Each "done" of five bytes passes too: the threshold is 5.
    assert after - before == 3 * 10 + 7 + 2 * 1000 + 1 + 4
    rows = told.agent.next_snapshot("told", "weights")["rows"]
    assert rows == [{"key": 64, "times": 1000, "plus": 0}]
    told.set('told.pairs[{"pid": 3, "comm": "a b"}]=7', "told.each_cpu[1]=2")
    assert told.agent.next_snapshot("told", "pairs")["rows"] == [{"pid": 3, "comm": "a b", "value": 7}]
    assert told.agent.next_snapshot("told", "each_cpu")["rows"][1]["value"] == 2 * (os.cpu_count() or 0)


def test_what_the_program_writes_beside_a_variable_is_not_lost(told: Told) -> None:
    """The program counts up `limits.high` while `limits.low` and `threshold`, beside it, are set."""
    start = told.data()["limits.high"]
    assert told.writer.stdin is not None
    assert told.writer.stdout is not None
    told.writer.stdin.write("50 300000\n")
    for number in range(400):
        name = ("limits.low", "threshold")[number % 2]
        # Between the five bytes of "done" and the fifty of the others.
        assert answer(told, {"do": "set", "collector": "told", "name": name, "value": 10 + number % 30})["ok"]
    assert told.writer.stdout.readline() == "done\n"
    assert told.data()["limits.high"] == start + 300_000


def answer(told: Told, request: Any, *, raw: bytes | None = None) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX) as channel:
        channel.connect(str(told.agent.control))
        channel.settimeout(30)
        channel.sendall(raw if raw is not None else json.dumps(request).encode() + b"\n")
        found: dict[str, Any] = json.loads(channel.makefile().readline())
        return found


def test_text_that_is_not_utf8_is_its_bytes(told: Told) -> None:
    done = subprocess.run(
        [BPFLEET.encode(), b"set", b"told.tag=caf\xe9", b"--config", bytes(told.agent.config)],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode().startswith('told.tag = "caf\ufffd"')
    assert told.data()["tag"] == "caf\ufffd"


def test_values_of_every_type_are_set_and_shown(told: Told) -> None:
    told.set(
        "told.tag=hello",
        "told.paused=true",
        "told.shift=-0x10",
        "told.few=[4, 3, 2, 1]",
        'told.limits={"low": 7}',
        "told.limits.high=70",
    )
    shown = {}
    for line in told.ask("get", "--format", "json").stdout.splitlines():
        one = json.loads(line)
        shown[one["name"]] = (one["value"], one["type"], one["kind"], one["changed"])
    assert shown["tag"] == ("hello", "char[16]", "data", True)
    assert shown["shift"][:2] == (-16, "s16")
    assert shown["few"][0] == [4, 3, 2, 1]
    assert shown["limits"][0] == {"low": 7, "high": 70}
    assert shown["only_tgid"] == (told.writer.pid, "u32", "knob", False)
    assert shown["weights"][2] == "map"
    assert json.loads(told.ask("get", "told.paused", "--format", "json").stdout)["value"] is True
    entries = told.ask("get", "told.weights").stdout
    assert entries.startswith('told.weights[100]  {"times": 10, "plus": 0}')
    assert told.ask("get", "told.only_tgid").stdout.endswith("u32  fixed\n")


REFUSED = [
    (["told.treshold=1"], 2, ["no variable 'treshold'", "did you mean 'threshold'?"]),
    (["tolled.threshold=1"], 2, ["no collector 'tolled'", "did you mean 'told'?"]),
    (["told.threshold=-1"], 2, ["-1 does not fit 'threshold' (u32)", "from 0 to 4294967295"]),
    (["told.threshold=many"], 2, ["'threshold' can't be 'many'", "write a number"]),
    (["told.only_tgid=1"], 2, ["'only_tgid' is `const volatile`", "reload (SIGHUP)"]),
    (["told.passed=1"], 2, ["'passed' is counted by the program"]),
    (["told.tag=seventeen letters"], 2, ["'tag' is 17 bytes long, and has room for 16"]),
    (["told.limits=3"], 2, ["'limits' is a struct"]),
    (["told.weights=3"], 2, ["'weights' is a map, and no key is named", "told.weights[KEY]=VALUE"]),
    (['told.weights[1]={"times": 1}'], 2, ["the value lacks 'plus'"]),
    (["told.weights[x]=1"], 2, ["the key can't be 'x'", "u32"]),
    (["told.line[0]=1"], 2, ["no control map 'line'", "weights", "control = true"]),
    (["told.each_cpu[9]=1"], 1, ["the kernel refuses the change"]),
    (["threshold=1"], 2, ["'threshold=1' sets nothing", "NAME.VARIABLE=VALUE"]),
    (["--delete", "told.threshold"], 2, ["names no entry"]),
    (["--delete", "told.each_cpu[0]"], 2, ["is an array"]),
    (["broken.x=1"], 1, ["collector 'broken' does not run: load_error", "bpfleet status"]),
]


def test_what_can_not_be_set_is_told_with_the_remedy(start_agent: Start, tmp_path: Path) -> None:
    broken = f'[collectors."{tmp_path}/broken.bpf.c"]\n'
    (tmp_path / "broken.bpf.c").write_text("not C")
    told = Told(start_agent, tmp_path, broken)
    try:
        for arguments, code, words in REFUSED:
            done = told.ask("set", *arguments)
            assert done.returncode == code, (arguments, done.stderr)
            for word in (*words, "remedy"):
                assert word in done.stderr, (arguments, done.stderr)
            assert "Traceback" not in done.stderr
        shown = told.ask("get", "told.tresholds")
        assert (shown.returncode, "did you mean 'threshold'?" in shown.stderr) == (2, True)
        assert told.ask("get", "told.weights[7]").returncode == 2
    finally:
        told.end()
    assert "Traceback" not in told.agent.stderr
    (collector,) = [one for one in told.agent.status()["collectors"] if one["name"] == "told"]
    assert "changes" not in collector or {one["what"] for one in collector["changes"]} == {"each_cpu[9]"}


def changes(told: Told) -> list[dict[str, Any]]:
    done = told.ask("status", "--format", "json")
    assert done.returncode == 0, done.stderr
    found = [one for one in json.loads(done.stdout)["collectors"] if one["name"] == "told"]
    listed: list[dict[str, Any]] = found[0].get("changes", [])
    return listed


def test_a_change_is_logged_and_in_the_status(told: Told) -> None:
    began = time.time_ns()
    told.set("told.threshold=9", 'told.weights[7]={"times": 1, "plus": 1}')
    told.agent.wait_for(lambda: "threshold is set to 9, by user 0" in told.agent.stderr)
    made = changes(told)
    assert [(one["what"], one["value"], one["uid"]) for one in made] == [
        ("threshold", "9", 0),
        ("weights[7]", '{"times": 1, "plus": 1}', 0),
    ]
    assert began < made[0]["at"] < time.time_ns()
    # The records say so too, without being asked.
    told.agent.wait_for(
        lambda: [
            one
            for one in told.agent.records
            if one["kind"] == "status" and any(c.get("changed") == 2 for c in one["collectors"])
        ]
    )
    shown = told.ask("status").stdout
    assert "collector told: running, every 0.1 s" in shown
    assert "  program on_write: tracepoint/syscalls/sys_enter_write" in shown
    assert "  changed threshold: set to 9 by user 0" in shown
    assert "sink test: running" in shown
    assert " by mmap" in shown


def test_a_change_outlives_the_worker_and_the_configuration_wins_after_a_reload(told: Told) -> None:
    told.set(
        "told.threshold=77",
        "told.threshold=78",
        "told.limits.low=1",
        'told.weights[100]={"times": 0, "plus": 0}',
        'told.weights[5]={"times": 0, "plus": 9}',
        "told.each_cpu[0]=4",
    )
    worker = told.agent.child("bpfleet.worker")
    os.kill(worker, signal.SIGKILL)
    # Asked while no worker is there: the next one answers.
    assert told.ask("get", "told.threshold").stdout.split() == ["told.threshold", "78", "u32", "changed"]
    assert told.agent.child("bpfleet.worker") != worker
    assert told.data()["threshold"] == 78
    assert len(changes(told)) == 5
    generation = told.agent.next_snapshot("told", ".data")["generation"]

    told.agent.process.send_signal(signal.SIGHUP)
    told.agent.wait_for(lambda: "as configured again" in told.agent.stderr)
    assert changes(told) == []
    assert told.agent.next_snapshot("told", ".data")["generation"] == generation
    assert (told.data()["threshold"], told.data()["limits.low"]) == (5, 10)
    rows = told.agent.next_snapshot("told", "weights")["rows"]
    assert rows == [{"key": 100, "times": 10, "plus": 0}]
    assert told.agent.next_snapshot("told", "each_cpu")["rows"][0]["value"] == 0


def test_a_reload_of_a_wrong_configuration_leaves_changes_alone(told: Told) -> None:
    told.set("told.threshold=79")
    text = told.agent.config.read_text()
    told.agent.config.write_text("[agent\n")
    told.agent.process.send_signal(signal.SIGHUP)
    told.agent.wait_for(lambda: "going on with the one before" in told.agent.stderr)
    told.agent.config.write_text(text)
    assert told.ask("get", "told.threshold").stdout.split()[1] == "79"


# ---- the socket


def test_the_socket_is_roots_alone_and_goes_with_the_agent(told: Told) -> None:
    status = told.agent.control.stat()
    assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (0, 0o600)
    assert stat.S_ISSOCK(status.st_mode)
    told.agent.stop()
    assert not told.agent.control.exists()
    done = told.ask("status")
    assert done.returncode == 1
    assert "no agent answers" in done.stderr


ASKS = """
import json, os, socket, sys
os.setgroups([int(group) for group in sys.argv[2:]])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
with socket.socket(socket.AF_UNIX) as channel:
    try:
        channel.connect(sys.argv[1])
    except PermissionError:
        sys.exit("may not connect")
    channel.sendall(b'{"do": "status"}\\n')
    answer = json.loads(channel.makefile().readline())
    sys.exit(0 if answer["ok"] else answer["error"]["what"])
"""


def as_nobody(path: Path, *groups: int) -> str:
    done = subprocess.run(
        [sys.executable, "-c", ASKS, str(path), *map(str, groups)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stderr.strip() if done.returncode else "answered"


def test_only_root_and_the_group_of_the_configuration_may_ask(start_agent: Start, shared_path: Path) -> None:
    control = shared_path / "control"
    config = f'[agent]\ncontrol = "{control}"\n{{}}[collectors.execve]\n'
    agent = start_agent(config.format(""))
    agent.wait_for(control.exists)
    assert as_nobody(control) == "may not connect"
    # Where the file's mode would let it, the kernel's word on who is there decides.
    control.chmod(0o666)
    assert "may not use the control socket" in as_nobody(control)
    agent.stop()
    agent = start_agent(config.format('control_group = "daemon"\n'))
    agent.wait_for(control.exists)
    daemon = grp.getgrnam("daemon").gr_gid
    agent.wait_for(lambda: control.stat().st_gid == daemon and stat.S_IMODE(control.stat().st_mode) == 0o660)
    assert as_nobody(control) == "may not connect"
    assert as_nobody(control, daemon) == "answered"
    control.chmod(0o666)
    assert "may not use the control socket" in as_nobody(control, daemon + 1)


def test_a_group_that_does_not_exist_is_named(tmp_path: Path) -> None:
    config = tmp_path / "bpfleet.toml"
    config.write_text(f'[agent]\nstate = "{tmp_path}"\ncontrol_group = "nogroup7"\n[collectors.execve]\n')
    done = run("run", "--config", str(config))
    assert done.returncode == 2
    assert "there is no group 'nogroup7'" in done.stderr


def test_a_second_agent_leaves_the_socket_of_the_first_alone(told: Told, tmp_path: Path) -> None:
    config = tmp_path / "second.toml"
    text = f'[agent]\nstate = "{tmp_path}/second"\ncontrol = "{told.agent.control}"\n[collectors.execve]\n'
    config.write_text(text)
    done = run("run", "--duration", "1s", "--config", str(config))
    assert done.returncode == 0
    assert "another agent answers there" in done.stderr
    assert told.set("told.threshold=6") == "told.threshold = 6 (was 5)\n"


def test_a_socket_that_a_killed_agent_left_is_replaced(start_agent: Start, told: Told) -> None:
    told.agent.process.kill()
    told.agent.process.wait()
    assert told.agent.control.exists()
    again = start_agent("[collectors.execve]\n")
    again.wait_for(lambda: run("status", "--config", str(again.config)).returncode == 0)
    assert again.stderr == ""


def test_nonsense_and_silence_hold_nobody_up(told: Told) -> None:
    silent = []
    for _ in range(20):
        one = socket.socket(socket.AF_UNIX)
        one.connect(str(told.agent.control))
        silent.append(one)
    try:
        for raw in (b"nonsense\n", b"[]\n", b"{}\n", b"[" * 100_000 + b"\n", b'{"do": ["get"]}\n'):
            assert answer(told, None, raw=raw)["ok"] is False
        assert answer(told, {"do": "set", "collector": "told", "name": 5, "value": 1})["ok"] is False
        assert answer(told, {"do": "set", "collector": ["told"], "name": "x", "value": 1})["ok"] is False
        assert answer(told, {"do": "set", "collector": "told", "name": "threshold"})["ok"] is False
        assert (
            answer(told, {"do": "set", "collector": "told", "name": "tag", "value": "\ud800"})["ok"] is False
        )
        assert (
            answer(told, {"do": "get", "collector": "told", "name": "weights", "key": {"a": []}})["ok"]
            is False
        )
        told.agent.next_snapshot("told", ".bss")
        assert told.ask("status").returncode == 0
    finally:
        for one in silent:
            one.close()
    assert "Traceback" not in told.agent.stderr
    assert len(told.agent.children("bpfleet.worker")) == 1

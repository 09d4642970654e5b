"""The three processes: who may do what, and what survives whose death."""

from __future__ import annotations

import json
import os
import pwd
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent_process import Agent, run
from distributions import distribution, program

Start = Callable[..., Agent]

QUICK = '[agent]\ninterval = "100ms"\n[collectors.execve]\n'


def proc_status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def count_of(snapshot: dict[str, Any], comm: str) -> int:
    return sum(row["count"] for row in snapshot["rows"] if row["comm"] == comm)


def test_the_worker_is_nobody_and_has_no_capability(start_agent: Start) -> None:
    agent = start_agent(QUICK + "[collectors.dnslat]")
    agent.next_snapshot("execve", "counts")
    status = proc_status(agent.child("bpfleet.worker"))
    nobody = pwd.getpwnam("nobody")
    assert status["Uid"].split() == [str(nobody.pw_uid)] * 4
    assert status["Gid"].split() == [str(nobody.pw_gid)] * 4
    assert status["Groups"] == ""
    for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[kind], 16) == 0, kind
    assert status["NoNewPrivs"] == "1"


def test_neither_worker_nor_supervisor_has_the_compiler_in_memory(start_agent: Start) -> None:
    agent = start_agent(QUICK + "[collectors.dnslat]")
    agent.next_snapshot("dnslat", "latency")
    for pid in (agent.process.pid, agent.child("bpfleet.worker")):
        maps = Path(f"/proc/{pid}/maps").read_text()
        assert not re.search(r"lib(bcc|LLVM|clang)", maps)
    assert "bpfleet_plugins" not in Path(f"/proc/{agent.process.pid}/maps").read_text()


def test_the_supervisor_opens_no_network_socket(start_agent: Start) -> None:
    agent = start_agent(QUICK)
    agent.next_snapshot("execve", "counts")
    sockets = set()
    for fd in Path(f"/proc/{agent.process.pid}/fd").iterdir():
        try:
            found = re.match(r"socket:\[(\d+)\]", os.readlink(fd))
        except OSError:
            continue
        if found:
            sockets.add(found.group(1))
    unix = {line.split()[6] for line in Path("/proc/net/unix").read_text().splitlines()[1:]}
    assert sockets
    assert sockets <= unix


def test_a_killed_worker_is_back_within_two_seconds_and_counters_go_on(
    start_agent: Start, tmp_path: Path
) -> None:
    program = tmp_path / f"y{os.getpid()}"
    program.write_bytes(Path("/bin/true").read_bytes())
    program.chmod(0o755)
    agent = start_agent(QUICK)
    agent.next_snapshot("execve", "counts")
    for _ in range(20):
        subprocess.run([program], check=True)
    before = agent.next_snapshot("execve", "counts")
    worker = agent.child("bpfleet.worker")
    killed = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    os.kill(worker, signal.SIGKILL)
    for _ in range(20):
        subprocess.run([program], check=True)
    after = agent.next_snapshot("execve", "counts")
    back = min(one["t0"] for one in agent.snapshots("execve", "counts") if one["t0"] > killed)
    assert (back - killed) / 1e9 < 2.0
    assert agent.child("bpfleet.worker") != worker
    assert after["generation"] == before["generation"]
    assert count_of(before, program.name) == 20
    assert count_of(after, program.name) == 40
    assert after["seq"] > before["seq"]


def test_a_worker_that_dies_again_and_again_leaves_the_counters_alone(start_agent: Start) -> None:
    agent = start_agent(QUICK)
    first = agent.next_snapshot("execve", "counts")
    worker = 0
    for _ in range(3):
        worker = agent.child("bpfleet.worker", other_than=worker)
        agent.next_snapshot("execve", "counts")
        os.kill(worker, signal.SIGKILL)
    last = agent.next_snapshot("execve", "counts")
    assert last["generation"] == first["generation"]
    agent.stop()
    seqs = [one["seq"] for one in agent.records if one["kind"] in ("snapshot", "status")]
    assert len(seqs) == len(set(seqs))
    told = {
        seq
        for gap in agent.records
        if gap["kind"] == "gap" and gap["reason"] == "worker_restart"
        for seq in range(gap["first"], gap["last"] + 1)
    }
    assert set(seqs) | told == set(range(1, max(seqs) + 1)), "a record was lost and no gap tells of it"


STUBBORN = '[agent]\ninterval = "100ms"\ndrain = "1s"\n[collectors.execve]\n'


def stopped(agent: Agent) -> int:
    """The worker's pid; it is stopped, so that it hears no SIGTERM: what a worker that hangs looks like."""
    worker = agent.child("bpfleet.worker")
    os.kill(worker, signal.SIGSTOP)
    agent.wait_for(lambda: proc_status(worker)["State"].startswith("T"))
    return worker


def test_a_worker_that_does_not_end_in_time_is_killed_and_the_agent_ends(start_agent: Start) -> None:
    agent = start_agent(STUBBORN)
    agent.next_snapshot("execve", "counts")
    worker = stopped(agent)
    began = time.monotonic()
    assert agent.stop() == 1, "not all was delivered"
    assert time.monotonic() - began > 1.0, "it had its time to end by itself"
    assert "the worker did not end in time and is killed" in agent.stderr
    assert not Path(f"/proc/{worker}").exists()


def test_a_reload_goes_on_though_the_worker_hangs(start_agent: Start) -> None:
    agent = start_agent(STUBBORN)
    before = agent.next_snapshot("execve", "counts")
    worker = stopped(agent)
    agent.process.send_signal(signal.SIGHUP)
    agent.child("bpfleet.worker", other_than=worker)
    assert not Path(f"/proc/{worker}").exists()
    assert agent.next_snapshot("execve", "counts")["generation"] == before["generation"]
    assert "the worker did not end in time and is killed" in agent.stderr
    assert agent.stop() == 0, "the deadline of the one before does not hold for the next"


def test_no_worker_outlives_its_supervisor(start_agent: Start) -> None:
    agent = start_agent(QUICK)
    agent.next_snapshot("execve", "counts")
    worker = agent.child("bpfleet.worker")
    agent.process.kill()
    agent.process.wait()
    for _ in range(500):
        if not Path(f"/proc/{worker}").exists():
            return
        time.sleep(0.01)
    pytest.fail("the worker is still there")


def held_programs(pid: int) -> set[int]:
    """The ids of the programs that a process has fds of, as the kernel tells them."""
    ids = set()
    for info in Path(f"/proc/{pid}/fdinfo").iterdir():
        found = re.search(r"^prog_id:\s*(\d+)", info.read_text(), re.MULTILINE)
        if found:
            ids.add(int(found.group(1)))
    return ids


def loaded_programs() -> set[int]:
    listed = subprocess.run(["bpftool", "-j", "prog", "list"], capture_output=True, text=True, check=True)
    return {one["id"] for one in json.loads(listed.stdout)}


def gone(ids: set[int]) -> bool:
    """Whether none of these programs is in the kernel any more; it frees them a moment after the last fd."""
    for _ in range(200):
        if ids.isdisjoint(loaded_programs()):
            return True
        time.sleep(0.05)
    return False


def test_nothing_stays_attached_or_mounted_after_the_end(start_agent: Start) -> None:
    mounts = Path("/proc/mounts").read_text()
    agent = start_agent(QUICK + "[collectors.cputime]\n[collectors.dnslat]")
    agent.next_snapshot("dnslat", "latency")
    ours = held_programs(agent.process.pid)
    assert len(ours) >= 8
    assert ours <= loaded_programs()
    assert Path("/proc/mounts").read_text() == mounts
    assert agent.stop() == 0
    assert gone(ours)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_cleanly_when_told_to(start_agent: Start, number: int) -> None:
    agent = start_agent(QUICK)
    agent.next_snapshot("execve", "counts")
    assert agent.stop(number) == 0
    assert agent.stderr == ""


def test_a_duration_ends_it() -> None:
    began = time.monotonic()
    done = run("run", "--duration", "1s", "--config", "etc/demo.toml", cwd=Path(__file__).parent.parent)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began > 1.0


def test_a_reload_loads_what_is_new_and_keeps_what_stays(start_agent: Start) -> None:
    agent = start_agent(QUICK)
    before = agent.next_snapshot("execve", "counts")
    ours = held_programs(agent.process.pid)
    agent.write_config(QUICK + "[collectors.cputime]")
    agent.process.send_signal(signal.SIGHUP)
    agent.wait_for(lambda: agent.snapshots("cputime"))
    after = agent.next_snapshot("execve", "counts")
    assert after["generation"] == before["generation"]
    agent.write_config('[agent]\ninterval = "100ms"\n[collectors.cputime]')
    agent.process.send_signal(signal.SIGHUP)
    agent.wait_for(lambda: [one["name"] for one in agent.status()["collectors"]] == ["cputime"])
    assert gone(ours)


def test_a_reload_with_a_wrong_configuration_goes_on_with_the_one_before(start_agent: Start) -> None:
    agent = start_agent(QUICK)
    before = agent.next_snapshot("execve", "counts")
    agent.config.write_text("[agent\n")
    agent.process.send_signal(signal.SIGHUP)
    agent.wait_for(lambda: "going on with the one before" in agent.stderr)
    after = agent.next_snapshot("execve", "counts")
    assert after["generation"] == before["generation"]
    assert "not TOML" in agent.stderr
    assert "Traceback" not in agent.stderr


SPEAKS = """
import os, socket, sys
from bpfleet import SinkType, hookimpl
from bpfleet.ipc import Channel

class Sink:
    def __init__(self, settings, context):
        # Once in the agent's life, or each worker would be replaced before another sink gets its snapshot.
        self.said = context.resumed
    def write(self, frames):
        if not self.said and any(frame.kind == "snapshot" for frame in frames):
            self.said = True
            Channel(socket.socket(fileno=os.dup(int(sys.argv[1])))).send({message})
    def close(self): pass

@hookimpl
def bpfleet_sinks():
    return [SinkType(name="speaks", help="", open=Sink)]
"""


def test_after_sealing_nothing_that_runs_in_the_worker_can_load_a_program(
    start_agent: Start, tmp_path: Path
) -> None:
    source = tmp_path / "evil.bpf.c"
    source.write_text(program().replace("on_exec", "on_evil"))
    message = {"op": "load", "collector": "evil", "kind": "core", "source": str(source)}
    module = SPEAKS.replace("{message}", repr(message))
    environment = distribution(tmp_path, "speaks", {"sink.speaks": "speaks"}, module)
    agent = start_agent(QUICK + "[sinks.speaks]", **environment)
    agent.wait_for(lambda: "after it was sealed" in agent.stderr)
    agent.next_snapshot("execve", "counts")
    listed = subprocess.run(["bpftool", "prog", "list"], capture_output=True, text=True, check=True).stdout
    assert not [line for line in listed.splitlines() if "on_evil" in line]


@pytest.mark.parametrize(
    "message", [{"op": "seal"}, {"op": "dance"}, {"collector": 3}, {"op": "grow"}, {"op": "load"}]
)
def test_a_worker_that_speaks_nonsense_is_replaced_and_the_counters_go_on(
    start_agent: Start, tmp_path: Path, message: dict[str, Any]
) -> None:
    module = SPEAKS.replace("{message}", repr(message))
    environment = distribution(tmp_path, "speaks", {"sink.speaks": "speaks"}, module)
    agent = start_agent(QUICK + "[sinks.speaks]", **environment)
    first = agent.next_snapshot("execve", "counts")
    agent.wait_for(lambda: "makes no sense" in agent.stderr)
    after = agent.next_snapshot("execve", "counts")
    assert after["generation"] == first["generation"]
    assert agent.process.poll() is None


def test_it_can_be_stopped_while_a_loader_hangs(start_agent: Start, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "hangs.bpf.c")
    agent = start_agent(QUICK + f'[collectors."{tmp_path}/hangs.bpf.c"]')
    agent.child("bpfleet.loader")
    agent.child("bpfleet.worker")
    time.sleep(1)
    began = time.monotonic()
    assert agent.stop() == 0
    assert time.monotonic() - began < 10
    assert agent.stderr == ""


def test_the_configurations_text_is_not_on_a_command_line(start_agent: Start) -> None:
    agent = start_agent(QUICK + "# s3cret\n")
    agent.next_snapshot("execve", "counts")
    for pid in (agent.process.pid, agent.child("bpfleet.worker")):
        assert b"s3cret" not in Path(f"/proc/{pid}/cmdline").read_bytes()

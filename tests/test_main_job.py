"""The main job on the real kernel: what collectors count equals what independent sources say."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent_process import BPFLEET, Agent, run
from distributions import program
from kernel_maps import open_map, put_many

Start = Callable[..., Agent]


def total(snapshot: dict[str, Any], **key: Any) -> int:
    """The count of the row with this key; 0 where it is absent."""
    rows = [row for row in snapshot["rows"] if all(row[name] == value for name, value in key.items())]
    assert len(rows) <= 1
    return int(rows[0]["count"]) if rows else 0


@pytest.fixture(scope="module")
def true_copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program whose name nobody else on this machine has."""
    program = tmp_path_factory.mktemp("bin") / f"x{os.getpid()}"
    program.write_bytes(Path("/bin/true").read_bytes())
    program.chmod(0o755)
    return program


def test_five_hundred_programs_started_raise_the_count_by_exactly_five_hundred(
    start_agent: Start, true_copy: Path
) -> None:
    agent = start_agent('[agent]\ninterval = "100ms"\n[collectors.execve]')
    before = agent.next_snapshot("execve", "counts")
    for _ in range(250):
        subprocess.run([true_copy], check=True)
    starters = [
        threading.Thread(target=lambda: [subprocess.run([true_copy], check=True) for _ in range(125)])
        for _ in range(2)
    ]
    for starter in starters:
        starter.start()
    for starter in starters:
        starter.join()
    after = agent.next_snapshot("execve", "counts")
    comm = true_copy.name[:15]
    assert total(after, comm=comm) - total(before, comm=comm) == 500
    assert after["losses"] == {"failed_insert": 0}
    assert after["complete"]


def test_failed_execs_are_counted_by_errno(start_agent: Start, tmp_path: Path) -> None:
    plain = tmp_path / "not-executable"
    plain.write_text("")
    libc = ctypes.CDLL(None, use_errno=True)
    argv = (ctypes.c_char_p * 2)(b"x", None)
    agent = start_agent('[agent]\ninterval = "100ms"\n[collectors.execve]')
    before = agent.next_snapshot("execve", "failures")
    for path, errno, times in ((b"/no/such/file", 2, 7), (os.fsencode(plain), 13, 4)):
        for _ in range(times):
            assert libc.execve(path, argv, None) == -1
            assert ctypes.get_errno() == errno
    after = agent.next_snapshot("execve", "failures")
    # Others on this machine may look for a file in vain meanwhile; nobody else runs a file that is
    # no program.
    assert total(after, errno=13) - total(before, errno=13) == 4
    assert total(after, errno=2) - total(before, errno=2) >= 7


BUSY = """
import os, sys, time
while time.process_time() < 3.0:
    pass
print(os.getpid(), flush=True)
sys.stdin.read()
"""


def cpu_of(snapshot: dict[str, Any], pid: int) -> int:
    return sum(row["cpu_ns"] for row in snapshot["rows"] if row["pid"] == pid)


def stat_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def schedstat_ns(pid: int) -> int:
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])


def test_cpu_time_agrees_with_proc_within_one_percent(start_agent: Start) -> None:
    agent = start_agent('[agent]\ninterval = "100ms"\n[collectors.cputime]')
    agent.next_snapshot("cputime", "processes")
    with subprocess.Popen(
        [sys.executable, "-c", BUSY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        snapshot = agent.next_snapshot("cputime", "processes")
        counted, proc, exact = cpu_of(snapshot, pid), stat_seconds(pid), schedstat_ns(pid)
        process.communicate("")
    # /proc/PID/stat says whole ticks of 10 ms, user and system time each: up to 20 ms less than there was.
    assert counted / 1e9 == pytest.approx(proc, rel=0.01)
    assert counted == pytest.approx(exact, rel=0.01)


def test_a_process_that_never_yields_is_counted_while_it_runs(start_agent: Start) -> None:
    agent = start_agent('[agent]\ninterval = "100ms"\n[collectors.cputime]')
    agent.next_snapshot("cputime", "processes")
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            time.sleep(0.5)
            start = schedstat_ns(process.pid)
            first = agent.next_snapshot("cputime", "processes")
            second = agent.next_snapshot("cputime", "processes")
            grown = cpu_of(second, process.pid) - cpu_of(first, process.pid)
            # The scheduler's own figure is brought up to date at each tick, of 10 ms at most.
            assert 0 < grown <= schedstat_ns(process.pid) - start + 20_000_000
        finally:
            process.kill()


def test_a_process_that_has_ended_goes_away_and_its_time_is_kept_under_its_name(
    start_agent: Start, tmp_path: Path
) -> None:
    agent = start_agent('[agent]\ninterval = "100ms"\n[collectors.cputime]')
    agent.next_snapshot("cputime", "exited")
    name = f"burn{os.getpid()}"
    program = tmp_path / name
    source = tmp_path / "burn.c"
    source.write_text(
        "#include <pthread.h>\n#include <time.h>\n"
        "static void *burn(void *x) { struct timespec t; do clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);"
        " while (t.tv_nsec < 200000000); return x; }\n"
        "int main(void) { pthread_t t[3]; for (int i = 0; i < 3; i++) pthread_create(&t[i], 0, burn, 0);"
        " for (int i = 0; i < 3; i++) pthread_join(t[i], 0); return 0; }\n"
    )
    subprocess.run(["gcc", "-O2", "-o", program, source, "-lpthread"], check=True)
    pids = []
    for _ in range(3):
        with subprocess.Popen([program]) as process:
            pids.append(process.pid)
    time.sleep(0.1)
    alive = agent.next_snapshot("cputime", "processes")
    exited = agent.next_snapshot("cputime", "exited")
    assert not [row for row in alive["rows"] if row["pid"] in pids]
    (row,) = [row for row in exited["rows"] if row["comm"] == name[:15]]
    assert row["count"] == 3
    # Three processes of three threads of 200 ms each, and what starting them costs.
    assert 1.8e9 <= row["cpu_ns"] < 2.1e9


def test_dns_lookups_are_counted_one_by_one(start_agent: Start) -> None:
    agent = start_agent('[agent]\ninterval = "200ms"\n[collectors.dnslat]')
    before = agent.next_snapshot("dnslat", "hosts")
    threads = [
        threading.Thread(target=lambda: [socket.getaddrinfo("127.0.0.1", 80) for _ in range(100)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    after = agent.next_snapshot("dnslat", "hosts")
    assert total(after, host="127.0.0.1") - total(before, host="127.0.0.1") == 400
    latency = agent.next_snapshot("dnslat", "latency")
    for row in latency["rows"]:
        assert sum(row["slots"]) == row["count"]


def test_once_prints_one_snapshot_of_each_map_and_exits() -> None:
    done = run("once", "execve", "cputime", "--after", "500ms", "--format", "json")
    assert done.returncode == 0, done.stderr
    import json

    records = [json.loads(line) for line in done.stdout.splitlines()]
    snapshots = [record for record in records if record["kind"] == "snapshot"]
    assert [(one["collector"], one["map"]) for one in snapshots] == [
        ("execve", "counts"),
        ("execve", "failures"),
        ("cputime", "processes"),
        ("cputime", "exited"),
        ("cputime", "energy"),
    ]
    assert all(one["method"] == "walk" for one in snapshots)


def test_the_failed_insert_of_a_full_map_is_told_as_a_loss(start_agent: Start, tmp_path: Path) -> None:
    source = tmp_path / "tiny.bpf.c"
    source.write_text(
        """
#include <bpfleet/bpfleet.h>
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u64);
} pids SEC(".maps");
BPFLEET_FAILED_INSERTS(pids);
static const __u64 zero;
SEC("tp_btf/sched_process_exec")
int BPF_PROG(on_exec, struct task_struct *task)
{
	__u32 pid = task->pid;
	__u64 *count = bpfleet_get_or_make(pids, &pid, &zero);
	if (count)
		__sync_fetch_and_add(count, 1);
	return 0;
}
char LICENSE[] SEC("license") = "Dual BSD/GPL";
"""
    )
    agent = start_agent(f'[agent]\ninterval = "100ms"\n[collectors."{source}"]')
    agent.next_snapshot("tiny", "pids")
    for _ in range(10):
        subprocess.run(["/bin/true"], check=True)
    snapshot = agent.next_snapshot("tiny", "pids")
    assert snapshot["entries"] == snapshot["max_entries"] == 2
    assert snapshot["losses"]["failed_insert"] >= 8


def test_a_map_that_outgrows_its_row_buffer_is_read_whole_and_gets_a_larger_one(
    start_agent: Start, tmp_path: Path
) -> None:
    source = tmp_path / "large.bpf.c"
    source.write_text(program().replace("max_entries, 16", "max_entries, 300000"))
    agent = start_agent(
        f'[agent]\ninterval = "1s"\n[collectors."{source}"]\nwalk_limit = "10s"\nrow_buffer = "16MiB"\n'
    )
    agent.next_snapshot("large", "hits")
    fd = open_map("hits", agent.process.pid)
    put_many(fd, 100_000, 8)
    first = agent.next_snapshot("large", "hits")
    assert (first["method"], first["entries"], first["complete"]) == ("batch", 100_000, True)
    agent.wait_for(lambda: agent.snapshots("large", "hits")[-1]["method"] == "walk")
    t1 = agent.next_snapshot("large", "hits")["t1"]

    def parts_of_one_read() -> list[dict[str, Any]] | None:
        found = [one for one in agent.snapshots("large", "hits") if one["t1"] == t1]
        return found if len(found) == found[0]["parts"] else None

    parts = agent.wait_for(parts_of_one_read)
    assert len(parts) > 1
    assert {one["method"] for one in parts} == {"walk"}
    assert sorted(row["key"] for one in parts for row in one["rows"]) == list(range(100_000))
    # The next worker gets the larger buffer from the supervisor.
    os.kill(agent.child("bpfleet.worker"), signal.SIGKILL)
    after = agent.next_snapshot("large", "hits")
    assert (after["method"], after["entries"]) == ("walk", 100_000)
    os.close(fd)


def test_once_into_a_pipe_that_closes_ends_quietly() -> None:
    done = subprocess.run(
        f"{BPFLEET} once execve cputime --after 200ms | head -1",
        shell=True,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""

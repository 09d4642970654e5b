"""pagefaults: a program that makes known faults is the source, and what /proc/PID/stat, /proc/vmstat say."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from agent_process import PATIENCE, Agent
from loop_device import loop_device

Start = Callable[..., Agent]
KNOWN = Path(__file__).with_name("known_faults.c")
CONFIG = '[agent]\ninterval = "200ms"\n[collectors.pagefaults]'
PAGES = 1024
PAGE = os.sysconf("SC_PAGESIZE")


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, under a name that nobody else on this machine has."""
    made = tmp_path_factory.mktemp("bin") / f"p{os.getpid()}"
    subprocess.run(["gcc", "-O1", "-o", made, KNOWN], check=True)
    return made


class Faulting:
    """The program, stopped before its faults, then after them."""

    def __init__(self, *command: str | Path) -> None:
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self.pid = int(self._line())

    def go(self) -> tuple[int, int]:
        """(minor, major) faults that getrusage has counted."""
        self.step()
        minor, major = map(int, self._line().split())
        return minor, major

    def write_out(self) -> None:
        """Have it ask for its memory to be written to swap."""
        self.step()
        assert self._line() == "written\n"

    def step(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")

    def stat(self) -> tuple[int, int]:
        """(minor, major) faults so far, as /proc/PID/stat has them."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[7]), int(fields[9])

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()


@contextmanager
def faulting(*command: str | Path) -> Iterator[Faulting]:
    made = Faulting(*command)
    try:
        yield made
    finally:
        made.process.kill()
        made.process.communicate()


def faults(agent: Agent, comm: str) -> dict[str, int]:
    snapshot = agent.next_snapshot("pagefaults", "faults")
    assert snapshot["losses"] == {"failed_insert": 0}
    (row,) = [one for one in snapshot["rows"] if one["comm"] == comm] or [
        {"user": 0, "kernel": 0, "write": 0}
    ]
    return {name: row[name] for name in ("user", "kernel", "write")}


def waits(agent: Agent, pid: int) -> dict[str, int]:
    rows = agent.next_snapshot("pagefaults", "processes")["rows"]
    (row,) = [one for one in rows if one["pid"] == pid] or [{"major": 0, "swapins": 0, "swapped_in": 0}]
    return {name: row[name] for name in ("major", "swapins", "swapped_in")}


def grown(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    return {name: after[name] - before[name] for name in after}


@pytest.mark.parametrize(("where", "kind"), [("touch", "user"), ("kernel", "kernel")])
def test_each_page_that_is_touched_first_is_a_fault(
    start_agent: Start, known: Path, where: str, kind: str
) -> None:
    agent = start_agent(CONFIG)
    with faulting(known, where) as program:
        before, stat = faults(agent, known.name), program.stat()
        minor, major = program.go()
        counted = grown(before, faults(agent, known.name))
        said = program.stat()[0] - stat[0]
    assert (minor, major) == (PAGES, 0)
    other = "user" if kind == "kernel" else "kernel"
    # A few more for printing and reading lines; /proc has those too. One that is tried again is told twice:
    # on a busy machine a dozen of a thousand.
    assert said <= counted[kind] + counted[other] <= said + PAGES // 50
    assert counted[kind] >= PAGES
    assert counted[other] <= said - PAGES + PAGES // 100
    assert counted["write"] >= PAGES


def test_major_faults_are_as_many_as_proc_says(start_agent: Start, known: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(os.urandom(64 * PAGE))
    subprocess.run(["sync", file], check=True)
    agent = start_agent(CONFIG)
    with faulting(known, "map", file) as program:
        before, stat = waits(agent, program.pid), program.stat()
        _, major = program.go()
        counted = grown(before, waits(agent, program.pid))
        said = program.stat()[1] - stat[1]
    assert major > 0
    assert counted["major"] == said >= major
    assert counted["swapins"] == 0


def in_swap(pid: int, reclaim: Callable[[], None]) -> None:
    """Reclaim until no more comes."""
    cached = -1
    deadline = time.monotonic() + 30 * PATIENCE
    while cached and time.monotonic() < deadline:
        reclaim()
        time.sleep(0.1)
        lines = Path("/proc/meminfo").read_text().splitlines()
        cached = next(int(line.split()[1]) for line in lines if line.startswith("SwapCached"))


def pswpin() -> int:
    lines = Path("/proc/vmstat").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("pswpin "))


@contextmanager
def swap_on(device: str) -> Iterator[None]:
    """Swap on that device, before all other."""
    subprocess.run(["mkswap", device], check=True, capture_output=True)
    done = subprocess.run(["swapon", "-p", "100", device], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"swap can't be made here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["swapoff", device], check=True, timeout=60 * PATIENCE)


@contextmanager
def zram() -> Iterator[str]:
    """A disk in memory of our own."""
    control = Path("/sys/class/zram-control")
    if not control.exists():
        subprocess.run(["modprobe", "zram", "num_devices=1"], check=False, capture_output=True)
    if not control.exists():
        pytest.skip("this kernel has no zram")
    number = (control / "hot_add").read_text().strip()
    try:
        Path(f"/sys/block/zram{number}/disksize").write_text("64M")
        yield f"/dev/zram{number}"
    finally:
        (control / "hot_remove").write_text(number)


@contextmanager
def disk_file(folder: Path) -> Iterator[str]:
    """A disk with requests, whose swap is read ahead."""
    backing = folder / "swap"
    backing.write_bytes(bytes(64 << 20))
    with loop_device(backing, "--direct-io=on") as made:
        yield made.path


def ask(file: Path, text: str) -> None:
    """It is an error where less was there than was asked for."""
    with suppress(OSError):
        file.write_text(text)


@contextmanager
def reclaiming(pid: int) -> Iterator[Callable[[], None]]:
    """What makes the kernel take back the memory of that process: a cgroup of its own, of either version."""
    v1 = Path("/sys/fs/cgroup/memory")
    v2 = Path("/sys/fs/cgroup")
    if not v1.exists():
        (v2 / "cgroup.subtree_control").write_text("+memory")
    group = (v1 if v1.exists() else v2) / f"bpfleet-test-{os.getpid()}"
    group.mkdir()
    try:
        (group / "cgroup.procs").write_text(str(pid))
        if v1.exists():
            yield lambda: ask(group / "memory.force_empty", "0")
        else:
            yield lambda: ask(group / "memory.reclaim", "64M")
    finally:
        (group.parent / "cgroup.procs").write_text(str(pid))
        group.rmdir()


@pytest.mark.parametrize("kind", ["zram", "loop"])
def test_swap_that_is_read_back_is_counted_for_who_reads_it(
    start_agent: Start, known: Path, tmp_path: Path, kind: str
) -> None:
    with ExitStack() as stack:
        stack.enter_context(swap_on(stack.enter_context(zram() if kind == "zram" else disk_file(tmp_path))))
        agent = start_agent(CONFIG)
        program = stack.enter_context(faulting(known, "swap"))
        reclaim = stack.enter_context(reclaiming(program.pid))
        before: dict[str, Any] = waits(agent, program.pid)
        program.write_out()
        if kind == "loop":  # what is still being written stays in memory until it is reclaimed
            in_swap(program.pid, reclaim)
        first = pswpin()
        _, major = program.go()
        counted = grown(before, waits(agent, program.pid))
        said = pswpin() - first
    # Nobody else here has memory in swap; where somebody has, the kernel's count is the larger.
    assert 0 < major <= counted["major"]
    assert counted["swapped_in"] <= said * PAGE
    assert counted["swapped_in"] >= PAGES * PAGE * 0.99
    if kind == "zram":  # no readahead: each page is a fault
        assert counted == {"major": PAGES, "swapins": PAGES, "swapped_in": PAGES * PAGE}

"""collectors: what each built-in collector costs in the kernel for each event, beside the libbpf-tools tool
that measures the same.

To add one is a line in `COMPARED`. Both are attached to the same events at once. Who is attached first is run
first, and leaves warm caches; so they change places between the halves of the rounds.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from bench import processes
from bench.agent import BPFLEET, wait_until
from bench.bpf import ProgramStats, program_stats, stats_enabled
from bench.tables import Table
from bench.workloads import Unavailable, Workload, workload

__all__ = ["COMPARED", "Compared", "measure", "run"]


@dataclass(frozen=True)
class Compared:
    """A collector, the program of ours that runs once for each event (with `|` between alternatives for other
    kernels), a tool's command line ("" where libbpf-tools has none), and what makes events: a program of
    bench/peers with its arguments, where `{n}` is how many and `{folder}` a folder on a disk. `settings` are
    the collector's, where `{pid}` is the process and `{program}` the file that makes the events."""

    collector: str
    event: str
    program: str
    tool: str
    workload: str
    count: int
    settings: str = ""


COMPARED = (
    Compared("syscalls", "call", "on_exit", "syscount -L -d 1000", "events syscalls {n}", 200_000),
    Compared("softirqs", "softirq", "on_exit", "softirqs -d 1000", "events datagrams {n}", 50_000),
    Compared(
        "hardirqs", "interrupt", "on_exit", "hardirqs -d 1000", "events requests {n} {folder}/file", 2_000
    ),
    Compared(
        "biolatency",
        "request",
        "on_complete",
        "biolatency -D 1000",
        "events requests {n} {folder}/file",
        2_000,
    ),
    Compared("fileops", "call", "on_exit", "", "events files {n} {folder}/file", 50_000),
    Compared("pagefaults", "fault", "user_fault", "", "events faults {n}", 50_000),
    Compared("execve", "exec", "count_exec", "execsnoop", "load {n} 0", 300),
    Compared("cputime", "switch", "on_switch", "cpudist 1000", "load 0 {n}", 50_000),
    Compared("runqlat", "switch", "on_switch", "runqlat 1000", "load 0 {n}", 50_000),
    Compared("offcpu", "switch", "on_switch", "offcputime 1000", "load 0 {n}", 50_000),
    Compared("exit", "exit", "on_exit", "exitsnoop", "load {n} 0", 300),
    Compared("tcplife", "change of state", "on_state", "tcplife", "events connections {n}", 2_000),
    Compared("tcpconn", "change of state", "on_state", "tcpstates", "events connections {n}", 2_000),
    Compared("drops", "drop", "on_drop", "", "events refused {n}", 20_000),
    Compared("dnslat", "lookup", "lookup_ends", "gethostlatency", "events lookups {n}", 10_000),
    Compared("profile", "sample", "on_sample", "", "events busy {n}", 2_000),
    Compared("netdev", "packet received", "on_receive", "", "events datagrams {n}", 50_000),
    Compared("oom", "kill", "on_victim|on_victim_pid", "oomkill", "rare kills {n}", 40),
    Compared("tcpretrans", "segment sent again", "on_retransmit", "", "rare segments {n}", 600),
    Compared("bashreadline", "line", "on_line", "bashreadline", "rare lines {n}", 300),
    Compared("pyflow", "call", "on_return", "", "calls.py {n}", 20_000, "pids = [{pid}]"),
    Compared("pyflow", "timed call", "on_return", "", "calls.py {n} timed", 20_000, "pids = [{pid}]"),
    Compared(
        "gouprobe",
        "call",
        "on_call",
        "",
        "calls.go {n}",
        20_000,
        'binary = "{program}"\nsymbol = "main.work"',
    ),
)
_FILE_SIZE = 4096 * 4096


@dataclass
class _Cost:
    """ns for each event, by round."""

    rounds: list[float] = field(default_factory=list)

    def cells(self) -> list[str]:
        """Median, least and most."""
        if not self.rounds:
            return ["-", "-", "-"]
        return [f"{ns:.0f}" for ns in (median(self.rounds), min(self.rounds), max(self.rounds))]

    def plain(self) -> dict[str, float] | None:
        """The same as numbers."""
        if not self.rounds:
            return None
        return {"median_ns": median(self.rounds), "min_ns": min(self.rounds), "max_ns": max(self.rounds)}


def run(quick: bool, only: Collection[str] = ()) -> Iterator[Table]:
    """One table, a row for each collector, or for those named."""
    rounds, scale = (2, 20) if quick else (10, 1)
    table = Table(
        "collectors: ns in the kernel for each event, ours and the tool's at the same events",
        ("", "event", "ours", "least", "most", "tool", "ns", "least", "most", "tool = 1", "events a round"),
        texts=2,
    )
    for one in COMPARED:
        if only and one.collector not in only:
            continue
        try:
            ours, theirs, events, note = measure(one, rounds, max(20, one.count // scale))
        except Unavailable as error:
            table.notes.append(f"not here: {one.collector}, {one.event}: {error}")
            continue
        if note:
            table.notes.append(note)
        ratio = median(ours.rounds) / median(theirs.rounds) if theirs.rounds and median(theirs.rounds) else 0
        table.rows.append(
            [
                one.collector,
                one.event,
                *ours.cells(),
                one.tool.partition(" ")[0] or "-",
                *theirs.cells(),
                f"{ratio:.2f}" if ratio else "-",
                f"{events:.0f}",
            ]
        )
        table.data.append(
            {
                "collector": one.collector,
                "event": one.event,
                "ours": ours.plain(),
                "tool": one.tool or None,
                "theirs": theirs.plain(),
                "ratio": ratio or None,
                "events": events,
                "rounds": len(ours.rounds),
            }
        )
    table.notes += [
        f"medians of {rounds} rounds, in half of which ours is attached first",
        "as the kernel counts, whose counting adds to each run",
        "all of a collector's programs together, over the events of everyone on the machine",
        "a call is any system call, so of fileops most workloads' calls cost less",
        "execsnoop, exitsnoop, gethostlatency, tcplife and tcpstates send each event up; so do both of"
        " bashreadline",
        "of bashreadline, dnslat, gouprobe and pyflow the traps into the kernel, not counted, come on top",
        "offcputime keeps stacks, as ours does",
    ]
    yield table


def measure(one: Compared, rounds: int, count: int) -> tuple[_Cost, _Cost, float, str]:
    """(ours, the tool's, events a round, a remark); raises Unavailable."""
    ours, theirs, events, note = _Cost(), _Cost(), [], ""
    for ours_first in (True, False):
        with (
            tempfile.TemporaryDirectory(prefix="bpfleet-bench-", dir="/var/tmp") as name,
            ExitStack() as stack,
        ):
            folder = Path(name)
            (folder / "file").write_bytes(os.urandom(_FILE_SIZE))
            os.sync()
            makes = stack.enter_context(workload(one.workload.format(n=count, folder=folder)))
            agent, tool = -1, -1
            for turn in (ours_first, not ours_first):
                if turn:
                    agent = _start_agent(one, makes, folder, stack)
                elif one.tool:
                    tool = _start_tool(one.tool, stack)
                    note = "" if tool >= 0 else f"{one.tool.partition(' ')[0]} does not run here"
            with stats_enabled():
                for _ in range(max(1, rounds // 2)):
                    before = program_stats()
                    makes.make()
                    after = program_stats()
                    seen = _runs_of(one.program, agent, before, after)
                    if not seen:
                        raise RuntimeError(f"{one.collector}: no program {one.program!r} ran")
                    events.append(seen)
                    ours.rounds.append(_ns(agent, before, after) / seen)
                    if tool >= 0:
                        theirs.rounds.append(_ns(tool, before, after) / seen)
    return ours, theirs, median(events), note


def _start_agent(one: Compared, makes: Workload, folder: Path, stack: ExitStack) -> int:
    settings = one.settings.format(pid=makes.pid, program=makes.program)
    config = folder / "bpfleet.toml"
    config.write_text(
        f'[agent]\nstate = "{folder}/state"\ncontrol = ""\ninterval = "1s"\n'
        f"[collectors.{one.collector}]\n{settings}\n[sinks.file]\n"
    )
    agent = stack.enter_context(processes.running([str(BPFLEET), "run", "--config", str(config)]))
    records = folder / "state/records.bpfleet"
    wait_until(lambda: records.exists() and records.stat().st_size > 512, 60)
    return agent.pid


def _start_tool(tool: str, stack: ExitStack) -> int:
    """Its pid, once it has programs in the kernel; -1 where it does not run here."""
    name, *words = tool.split()
    found = shutil.which(name, path="/usr/sbin:/usr/bin")
    if found is None:
        return -1
    started = stack.enter_context(processes.running(processes.in_tracing([found, *words])))
    wait_until(lambda: started.poll() is not None or bool(processes.programs_of(started.pid)), 20)
    time.sleep(0.5)  # it may attach more
    return started.pid if started.poll() is None else -1


def _mine(pid: int, known: dict[int, ProgramStats]) -> set[int]:
    return processes.programs_of(pid) & known.keys()


def _ns(pid: int, before: dict[int, ProgramStats], after: dict[int, ProgramStats]) -> int:
    return sum(after[one].run_ns - before[one].run_ns for one in _mine(pid, before) & after.keys())


def _runs_of(program: str, pid: int, before: dict[int, ProgramStats], after: dict[int, ProgramStats]) -> int:
    """How often our program of that name, or of one of those names, ran."""
    names = {name[:15] for name in program.split("|")}  # the kernel keeps 15 characters
    ids = [one for one in _mine(pid, before) & after.keys() if after[one].name in names]
    return sum(after[one].runs - before[one].runs for one in ids)

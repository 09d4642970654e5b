"""cost: what our programs cost in the kernel for each event, beside libbpf-tools attached to the same."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from bench import processes
from bench.agent import BPFLEET, wait_until
from bench.bpf import ProgramStats, program_stats, stats_enabled
from bench.peer import compiled
from bench.tables import Table

__all__ = ["Subject", "measure", "run"]


@dataclass
class Subject:
    """A collector or tool: the BPF programs of process `pid` whose names begin with one of `programs`. Of
    ours, the first of them runs once for each `event`, so it counts the events for all."""

    name: str
    event: str
    programs: tuple[str, ...]
    pid: int = 0
    ids: set[int] = field(default_factory=set)
    rounds: list[dict[str, tuple[int, int]]] = field(default_factory=list)
    """Each round: (ns, runs) by program."""

    def find_programs(self) -> None:
        """Learn the ids of the programs, once they are loaded."""
        known = program_stats()
        self.ids = {
            number
            for number in processes.programs_of(self.pid)
            if number in known and known[number].name.startswith(self.programs)
        }
        if not any(known[number].name.startswith(self.programs[0]) for number in self.ids):
            raise RuntimeError(f"{self.name}: no program {self.programs[0]!r} is loaded")

    def add_round(self, before: dict[int, ProgramStats], after: dict[int, ProgramStats]) -> None:
        """Keep what ran between two readings."""
        taken: dict[str, tuple[int, int]] = {}
        for number in self.ids:
            ns, runs = taken.get(after[number].name, (0, 0))
            ns += after[number].run_ns - before[number].run_ns
            taken[after[number].name] = ns, runs + after[number].runs - before[number].runs
        self.rounds.append(taken)

    def runs_of_first(self) -> list[int]:
        """How often the first program ran, by round."""
        return [taken[self.programs[0]][1] for taken in self.rounds]


def run(quick: bool) -> Iterator[Table]:
    """One table."""
    subjects, notes = measure(*((2, 50, 2_000) if quick else (9, 400, 100_000)))
    table = Table(
        "cost: time in the kernel for each event, all attached at once",
        ("", "event", "ns an event", "least", "most", "events a round", "programs: ns a run"),
        texts=2,
    )
    events = {one.event: one.runs_of_first() for one in reversed(subjects) if one.programs[0]}
    for one in subjects:
        counted = events[one.event]
        each = [
            sum(ns for ns, _ in taken.values()) / max(1, count)
            for taken, count in zip(one.rounds, counted, strict=True)
        ]
        table.rows.append(
            [
                one.name,
                one.event,
                *(f"{ns:.0f}" for ns in (median(each), min(each), max(each))),
                f"{median(counted):.0f}",
                ", ".join(_per_run(one)),
            ]
        )
        table.data.append(
            {
                "name": one.name,
                "event": one.event,
                "ns_per_event": median(each),
                "min_ns": min(each),
                "max_ns": max(each),
                "events": median(counted),
                "rounds": len(each),
            }
        )
    table.notes = [
        f"medians of {len(subjects[0].rounds)} rounds, as the kernel counts; its counting adds to each run",
        "execsnoop also reads each command's arguments and sends them up; cpudist keeps a histogram",
        *notes,
    ]
    yield table


def measure(rounds: int, execs: int, round_trips: int) -> tuple[list[Subject], list[str]]:
    """(what was measured, remarks): attach everything, then make events `rounds` times."""
    load, notes = compiled("load"), []
    subjects: list[Subject] = []
    with tempfile.TemporaryDirectory(prefix="bpfleet-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        config = folder / "bpfleet.toml"
        config.write_text(
            f'[agent]\nstate = "{folder}/state"\ninterval = "1s"\n'
            "[collectors.execve]\n[collectors.cputime]\n[sinks.file]\n"
        )
        agent = stack.enter_context(processes.running([str(BPFLEET), "run", "--config", str(config)]))
        records = folder / "state/records.bpfleet"
        wait_until(lambda: records.exists() and records.stat().st_size > 4096, 30)
        subjects += [
            Subject("bpfleet execve", "exec", ("count_exec", "execve"), agent.pid),
            Subject("bpfleet cputime", "switch", ("on_switch", "on_exit"), agent.pid),
        ]
        for command, event in ((("execsnoop",), "exec"), (("cpudist", "1000"), "switch")):
            tool = _start(command, stack)
            if tool is None or tool.poll() is not None:
                notes.append(f"{command[0]} does not run here")
                continue
            subjects.append(Subject(command[0], event, ("",), tool.pid))
        with stats_enabled():
            for one in subjects:
                one.find_programs()
            for _ in range(rounds):
                before = program_stats()
                subprocess.run([load, str(execs), str(round_trips)], check=True)
                after = program_stats()
                for one in subjects:
                    one.add_round(before, after)
    return subjects, notes


def _start(command: Sequence[str], stack: ExitStack) -> subprocess.Popen[str] | None:
    program = shutil.which(command[0], path="/usr/sbin:/usr/bin")
    if program is None:
        return None
    tool = stack.enter_context(processes.running(processes.in_tracing([program, *command[1:]])))
    wait_until(lambda: tool.poll() is not None or len(processes.programs_of(tool.pid)) > 0, 10)
    time.sleep(0.5)
    return tool


def _per_run(one: Subject) -> Iterator[str]:
    """Each program's name (as much of it as the kernel keeps) and ns a run, over all rounds."""
    for name in sorted(one.rounds[0]):
        ns, runs = (sum(taken[name][part] for taken in one.rounds) for part in (0, 1))
        if runs:
            yield f"{name} {ns / runs:.0f}"

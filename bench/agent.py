"""agent: the agent as it runs, with the file sink: memory, CPU, time to the first snapshot. With three
collectors, beside the memory of other tools that are attached for the same events; and with all at once."""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path

from bench import processes
from bench.tables import Table, megabytes
from bpfleet.loader.headers import header_tree, includes_of, installed_headers
from bpfleet.wire import Decoder, Snapshot, read_file

__all__ = ["BPFLEET", "COLLECTORS", "Sampled", "run", "sample_agent", "wait_until"]

_USE = (
    *("interval", "PSS, all", "supervisor", "worker"),
    *("CPU of one core", "CPU a second", "over", "snapshots in all", "rows each"),
)
COLLECTORS = ("execve", "cputime", "dnslat")
BPFLEET = Path(sys.executable).with_name("bpfleet")
_TOOLS = (("execsnoop",), ("cpudist", "1000"), ("gethostlatency",))
_BCC_TOOLS = (
    ("execsnoop-bpfcc",),
    ("cpudist-bpfcc", "1000"),
    ("gethostlatency-bpfcc",),
    ("runqlat-bpfcc", "1000"),
)


@dataclass
class Sampled:
    """What one run of the agent was seen to use, in its steady state."""

    interval: float
    seconds: float
    cpu_ns: int = 0
    startup_cpu_ns: int = 0
    """Of everything until the steady state, loaders included."""
    pss: dict[str, list[int]] = field(default_factory=dict)
    forks: float = 0.0
    switches: float = 0.0
    first: dict[str, float] = field(default_factory=dict)
    """Seconds from the command to each collector's first snapshot."""
    snapshots: int = 0
    rows: int = 0
    bytes: int = 0

    @property
    def pss_all(self) -> int:
        """Bytes of all processes together: the median of the samples."""
        return int(statistics.median(map(sum, zip(*self.pss.values(), strict=True))))


def run(quick: bool) -> Iterator[Table]:
    """The agent at two intervals, then beside others."""
    table = Table(
        "agent: execve, cputime and dnslat, records to a file",
        _USE,
    )
    startup = Table(
        "agent: from the command to the first snapshot of each collector",
        ("", *COLLECTORS, "CPU until then"),
    )
    sampled = [sample_agent(*case) for case in ([(0.5, 3.0)] if quick else [(1.0, 32.0), (10.0, 32.0)])]
    for one in sampled:
        _add(one, table)
        startup.rows.append(
            [
                f"run at {one.interval:g} s",
                *(f"{one.first[name]:.2f} s" for name in COLLECTORS),
                f"{one.startup_cpu_ns / 1e9:.2f} s",
            ]
        )
        startup.data.append({"first_s": one.first, "startup_cpu_s": one.startup_cpu_ns / 1e9})
    forks, switches = sampled[0].forks, sampled[0].switches
    table.notes = [
        "PSS: the median of samples; CPU: of supervisor and worker while they run, without the start",
        f"meanwhile the machine made {forks:.0f} processes and {switches:.0f} context switches a second",
    ]
    startup.notes = ["loaders run at the same time; dnslat is compiled by bcc at each start"]
    yield table
    yield startup
    yield _beside(sampled[0], quick)
    yield _with_all(quick)


def _with_all(quick: bool) -> Table:
    """Every built-in collector that needs no settings."""
    names = sorted(
        point.name.removeprefix("collector.")
        for point in entry_points(group="bpfleet.v1")
        if point.name.startswith("collector.") and point.value.startswith("bpfleet_plugins.")
    )
    table = Table(
        "agent: all built-in collectors at once, records to a file",
        _USE,
    )
    one = sample_agent(*((1.0, 3.0) if quick else (10.0, 62.0)), names)
    _add(one, table)
    silent = sorted(set(names) - set(one.first))
    table.notes = [
        f"{len(one.first)} collectors; without those that have told nothing (off without settings, or not for"
        f" this kernel): {', '.join(silent) or 'none'}",
        "CPU: of the agent's own processes; what programs cost where events happen is in `collectors`",
    ]
    return table


def sample_agent(interval: float, seconds: float, collectors: Sequence[str] = COLLECTORS) -> Sampled:
    """Run the agent with a snapshot of everything each `interval`, and watch it for `seconds`."""
    found = Sampled(interval, seconds)
    with tempfile.TemporaryDirectory(prefix="bpfleet-bench-") as name:
        folder = Path(name)
        config, state = folder / "bpfleet.toml", folder / "state"
        config.write_text(
            f'[agent]\nstate = "{state}"\ninterval = "{interval:g}s"\n'
            + "".join(f"[collectors.{one}]\n" for one in collectors)
            + '[sinks.file]\npath = "records.bpfleet"\n'
        )
        began = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        with processes.running([str(BPFLEET), "run", "--config", str(config)]) as agent:
            records = state / "records.bpfleet"
            wait_until(
                lambda: (records.exists() and records.stat().st_size > 4096) or agent.poll() is not None, 60
            )
            if agent.poll() is not None:
                raise RuntimeError(f"the agent ended: {agent.stderr.read() if agent.stderr else ''}")
            wait_until(lambda: not _loads(agent.pid), 120)
            time.sleep(2.0)  # what is done once is done by then
            _watch(agent.pid, found)
        _count(records, began, found)
    return found


def _loads(pid: int) -> bool:
    return any("loader" in processes.name_of(one) for one in processes.family(pid))


def _watch(pid: int, found: Sampled) -> None:
    members = processes.family(pid)
    before, cpu = processes.activity(), sum(map(processes.cpu_ns, members))
    found.startup_cpu_ns = sum(map(processes.ticks_ns, members))
    end = time.monotonic() + found.seconds
    while True:
        for one in members:
            found.pss.setdefault(processes.name_of(one), []).append(processes.pss(one))
        left = end - time.monotonic()
        if left <= 0:
            break
        time.sleep(min(left, 5.0))
    after = processes.activity()
    found.cpu_ns = sum(map(processes.cpu_ns, members)) - cpu
    found.seconds = after.at - before.at
    found.forks, found.switches = after.per_second(before)
    if processes.family(pid) != members:
        raise RuntimeError("the agent's processes have changed while they were watched")


def _count(records: Path, began: int, found: Sampled) -> None:
    decoder = Decoder()
    found.bytes = records.stat().st_size
    for _, frame in read_file(records):
        record = decoder.decode(frame)
        if isinstance(record, Snapshot):
            found.snapshots += 1
            found.rows += record.rows
            found.first.setdefault(record.schema.collector, (record.t1 - began) / 1e9)


def wait_until(true: Callable[[], object], seconds: float) -> None:
    """Return once `true()` is, or after `seconds`."""
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.05)


def _add(one: Sampled, table: Table) -> None:
    share = one.cpu_ns / 1e9 / one.seconds
    by_name = {name: statistics.median(samples) for name, samples in one.pss.items()}
    table.rows.append(
        [
            f"{one.interval:g} s",
            megabytes(one.pss_all),
            megabytes(by_name["bpfleet.supervisor"]),
            megabytes(by_name["bpfleet.worker"]),
            f"{share:.2%}",
            f"{share * 1000:.2f} ms",
            f"{one.seconds:.0f} s",
            str(one.snapshots),
            f"{one.rows / max(1, one.snapshots):.0f}",
        ]
    )
    table.data.append(
        {
            "interval_s": one.interval,
            "seconds": one.seconds,
            "pss_bytes": one.pss_all,
            "pss_by_process": by_name,
            "cpu_share": share,
            "snapshots": one.snapshots,
            "rows": one.rows,
            "file_bytes": one.bytes,
            "forks_per_s": one.forks,
            "switches_per_s": one.switches,
        }
    )


def _beside(ours: Sampled, quick: bool) -> Table:
    table = Table("agent: memory beside other tools (PSS of all their processes)", ("", "PSS", "alone"))
    table.rows.append(["bpfleet, three collectors and a file sink", megabytes(ours.pss_all), "-"])
    table.data.append({"name": "bpfleet", "pss_bytes": ours.pss_all})
    groups = (("libbpf-tools", _TOOLS), ("bcc tools", _BCC_TOOLS[2:3] if quick else _BCC_TOOLS))
    for group, tools in groups:
        total, counted = 0, []
        for command in tools:
            size, note = _tool_pss(command, seconds=2.0 if quick else 4.0)
            if note:
                table.notes.append(f"{command[0]}: {note}")
                continue
            total += size
            counted.append(command[0])
            table.rows.append([f"{group}: {command[0]}", megabytes(size), "yes"])
            table.data.append({"name": command[0], "group": group, "pss_bytes": size})
        if counted:
            table.rows.append([f"{group}: {' + '.join(counted)}", megabytes(total), "sum"])
    table.notes.append(
        "each tool ran alone, so what it shares with nobody counts whole; the agent's two share libraries"
    )
    return table


def _tool_pss(command: tuple[str, ...], seconds: float) -> tuple[int, str]:
    """(bytes, why there are none)."""
    program = shutil.which(command[0], path="/usr/sbin:/usr/bin")
    if program is None:
        return 0, "not installed"
    with _headers_for(program), processes.running(processes.in_tracing([program, *command[1:]])) as tool:
        # bcc tools compile first: measured once their memory has stopped growing.
        wait_until(lambda: tool.poll() is not None, seconds)
        last = -1
        for _ in range(20):
            size = sum(map(processes.pss, processes.family(tool.pid)))
            if tool.poll() is not None:
                said = tool.stderr.read().strip().splitlines() if tool.stderr else []
                return 0, f"does not run here ({said[-1][:100] if said else tool.returncode})"
            if size <= last * 1.01:
                break
            last = size
            time.sleep(1.0)
        return size, ""


def _headers_for(program: str) -> AbstractContextManager[object]:
    """Headers for bcc where the machine has none: the agent's own, made of the kernel's BTF."""
    text = Path(program).read_bytes()
    if not text.startswith(b"#!") or installed_headers() is not None:
        return nullcontext()
    return header_tree(includes_of(text.decode(), []).kernel, typed=True)

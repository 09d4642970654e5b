"""A fleet of simulated agents against an aggregator: `python -m bench.fleet --agents 10000 --start`.

Each agent is a DEALER socket of its own that speaks the delivery protocol: HELLO, schemas, records within the
credit, ACKs, BYE, and a new socket after a deadline. Its snapshots are bytes made once, with agent, seq and
time written over, so that thousands of agents cost little beside the aggregator that is measured. Nothing of
the wire is simulated. A record keeps its number until it is acknowledged: what is `lost` was refused, or
still waited a minute after the end. Where one process may not open enough files there are several.

With `--start` the aggregator is one of its own, in a folder of its own, on the embedded store; it can be
killed on the way (`--kill-at 5m --down 30s`), and at the end its store is asked what it holds.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from bench.fleet_agents import Fleet, Options, Seen
from bench.fleet_aggregator import StartedAggregator, Usage, key_pairs
from bpfleet.settings import Duration

__all__ = ["main"]

Floats = np.ndarray[tuple[int], np.dtype[np.float64]]

_FILES_PER_AGENT, _FILES_BESIDE = 2, 200
_CALM = 10.0
"""Seconds before the kill over which the calm state is taken."""


def simulate(options: Options) -> Seen:
    """Run these agents in this process."""
    fleet = Fleet(options)
    with suppress(KeyboardInterrupt):
        fleet.run()
    fleet.close()
    fleet.seen.cpu = time.process_time()
    return fleet.seen


def shares(options: Options) -> list[Options]:
    """The fleet in as many processes as the limit on open files asks for."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    most = (hard - _FILES_BESIDE) // _FILES_PER_AGENT
    count = -(-options.agents // most)
    return [
        replace(options, agents=len(range(n, options.agents, count)), keys=options.keys[n::count])
        for n in range(count)
    ]


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.fleet", description=__doc__)
    parser.add_argument("--endpoint", default="", help="of a running aggregator")
    parser.add_argument(
        "--start", action="store_true", help="start an aggregator, and ask its store at the end"
    )
    parser.add_argument("--curve", action="store_true", help="with --start: encrypted, a key for each agent")
    parser.add_argument("--settings", default='commit_interval = "1s"', help="with --start: of [aggregator]")
    parser.add_argument("--store", default='memory = "512MiB"', help="with --start: of [store.duckdb]")
    parser.add_argument(
        "--kill-at", type=Duration.parse, default=Duration(0), help="with --start: SIGKILL it then"
    )
    parser.add_argument("--down", type=Duration.parse, default=Duration(30), help="how long it is gone")
    parser.add_argument("--agents", type=int, default=1000)
    parser.add_argument("--interval", type=Duration.parse, default=Duration(10))
    parser.add_argument("--maps", type=int, default=5)
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--duration", type=Duration.parse, default=Duration(60))
    parser.add_argument("--window", type=int, default=8)
    parser.add_argument("--lead", type=Duration.parse, default=Duration(15), help="time to connect in")
    parser.add_argument("--compression", choices=["none", "zstd"], default="none")
    parser.add_argument("--server-key", default="", help="a running aggregator's public key, for CURVE")
    parser.add_argument("--pid", type=int, default=0, help="a running aggregator's process, to measure it")
    given = parser.parse_args()
    if bool(given.endpoint) == given.start:
        parser.error("either --endpoint of a running aggregator, or --start")
    if (given.kill_at or given.curve) and not given.start:
        parser.error("--kill-at and --curve need --start")
    return given


def main() -> int:
    """Run it, and print what came of it; 1 where something was lost."""
    given = arguments()
    names = ("agents", "interval", "maps", "rows", "duration", "window", "lead", "compression")
    options = Options(endpoint=given.endpoint, **{name: getattr(given, name) for name in names})
    with ExitStack() as stack:
        pairs = key_pairs(given.agents) if given.curve or given.server_key else []
        started: StartedAggregator | None = None
        if given.start:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/var/tmp")))
            started = StartedAggregator(
                folder, given.settings, given.store, [public for public, _ in pairs] if given.curve else None
            )
            stack.enter_context(started)
        options = replace(
            options,
            endpoint=started.endpoint if started else given.endpoint,
            server_key=started.public if started else given.server_key,
            keys=pairs,
        )
        usage = Usage(started.pid if started else given.pid)
        began = time.monotonic()
        parts = shares(options)
        pool = stack.enter_context(ProcessPoolExecutor(len(parts), get_context("spawn")))
        futures = [pool.submit(simulate, part) for part in parts]
        killed = outage(started, began, given, usage) if started and given.kill_at else None
        watch(futures, usage)
        seen = [future.result() for future in futures]
        took = time.monotonic() - began
        report(seen, options, took, before=killed[0] if killed else None)
        print(usage)
        if killed:
            report_return(seen, *killed)
        stored = started.stored() if started else None
        acked = sum(one.acked for one in seen)
        if stored is not None:
            print(f"stored {stored:,} records, {acked:,} were acknowledged")
        return 1 if any(one.lost for one in seen) or stored not in (None, acked) else 0


def watch(futures: Sequence[Future[Seen]], usage: Usage) -> None:
    """Until all are done: the aggregator's memory, once in five seconds."""
    while not all(future.done() for future in futures):
        time.sleep(5)
        usage.look()


def outage(
    started: StartedAggregator, began: float, given: argparse.Namespace, usage: Usage
) -> tuple[float, float]:
    """Kill the aggregator, start it again; when it was killed, and when it listened again."""
    while (left := began + given.kill_at - time.monotonic()) > 0:
        time.sleep(min(left, 5.0))
        usage.look()
    killed = time.monotonic()
    started.kill()
    print("the aggregator is killed", file=sys.stderr, flush=True)
    time.sleep(given.down)
    started.start()
    usage.follow(started.pid)
    return killed, time.monotonic()


def report(seen: Sequence[Seen], options: Options, took: float, before: float | None) -> None:
    """Print the counts, and the delays of what was acknowledged before the kill."""
    acked, seconds = sum(one.acked for one in seen), options.duration - options.lead
    print(
        f"{options.agents:,} agents, {options.maps} maps of {options.rows} rows every {options.interval:g} s"
    )
    print(f"acked {acked:,} records ({acked * options.rows:,} rows) in {seconds:.0f} s: ", end="")
    print(f"{acked / seconds:,.0f} records/s, {acked * options.rows / seconds:,.0f} rows/s")
    names = ("lost", "resent", "sessions", "failures")
    print(", ".join(f"{name} {sum(getattr(one, name) for one in seen):,}" for name in names))
    latencies = np.concatenate([np.asarray(one.latencies) for one in seen])
    at = np.concatenate([np.asarray(one.acked_at) for one in seen])
    calm = latencies if before is None else latencies[at < before]
    if len(calm):
        p50, p99, most = np.quantile(calm, [0.5, 0.99, 1]) * 1e3
        when = "" if before is None else " before the kill"
        print(f"acknowledged{when} after p50 {p50:.0f} ms, p99 {p99:.0f} ms, max {most:.0f} ms")
    print(f"fleet: CPU {sum(one.cpu for one in seen) / took:.2f} of a core, {len(seen)} processes")


def report_return(seen: Sequence[Seen], killed: float, back: float) -> None:
    """Print how the fleet came back, and how fast the backlog went: that is the limit."""
    seconds = np.arange(np.floor(killed - _CALM), np.ceil(max(one.samples[-1][0] for one in seen)) + 1)
    agents, waiting, acked = (summed(seen, column, seconds) for column in (1, 2, 3))
    calm = waiting[seconds < killed].max()
    after = seconds >= back
    home = after & (agents >= agents[0] - 0.5)
    drained = home & (waiting <= calm)
    if not drained.any():
        print(f"after the kill: {agents[-1]:,.0f} agents back, {waiting[-1]:,.0f} records still wait")
        return
    # Each is welcomed anew once it has heard that its session is over.
    welcomed = np.sort(np.concatenate([np.asarray(one.welcomed_at) for one in seen]))
    welcomed = welcomed[welcomed > killed] - back
    tenth, most, every = (welcomed[min(len(welcomed), int(part * agents[0])) - 1] for part in (0.1, 0.9, 1))
    highest = float(waiting[after].max())
    print(f"gone for {back - killed:.0f} s; then a tenth of the agents is back after {tenth:.0f} s, ", end="")
    print(f"nine tenths after {most:.0f} s, all after {every:.0f} s; ", end="")
    print(f"the backlog of {highest:,.0f} records after {seconds[drained][0] - back:.0f} s")
    busy = after & (waiting > calm + (highest - calm) / 10) & (agents >= 0.9 * agents[0])
    rates = np.diff(acked)[busy[1:]]
    if len(rates):
        print(f"the limit: {np.median(rates):,.0f} records/s with a backlog (median of {len(rates)} s)")


def summed(seen: Sequence[Seen], column: int, seconds: Floats) -> Floats:
    """One column of the samples of all processes, at these seconds."""
    total = np.zeros(len(seconds))
    for one in seen:
        total += np.interp(seconds, [row[0] for row in one.samples], [row[column] for row in one.samples])
    return total


if __name__ == "__main__":
    sys.exit(main())

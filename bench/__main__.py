"""The command line: `python -m bench [NAME…] [--quick] [--json FILE]`, from the checkout's root, as root."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from bench import agent, collectors, cost, delay, draining, machine, reading, store, storing, tick, wire
from bench.tables import Table

BENCHMARKS: dict[str, Callable[[bool], Iterator[Table]]] = {
    "reading": reading.run,
    "delay": delay.run,
    "draining": draining.run,
    "tick": tick.run,
    "wire": wire.run,
    "agent": agent.run,
    "cost": cost.run,
    "collectors": collectors.run,
    "store": store.run,
    "storing": storing.run,
}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="What is measured: docs/benchmarks.md."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(BENCHMARKS)}; else all")
    parser.add_argument(
        "--quick", action="store_true", help="small and short: shows that it works, not how fast"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results there")
    parser.add_argument(
        "--collector",
        action="append",
        default=[],
        metavar="NAME",
        help="of `collectors` only this one; may be given several times",
    )
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"there is no benchmark {unknown[0]!r}; there are {', '.join(BENCHMARKS)}")
    for name in options.collector:
        if name not in {one.collector for one in collectors.COMPARED}:
            parser.error(f"collector {name!r} is not measured")
    if os.geteuid() != 0:
        parser.error("root is needed: maps are made and programs are loaded")

    began = time.monotonic()
    results: dict[str, object] = {"machine": machine.facts(), "quick": options.quick}
    print(machine.line(), end="\n\n", flush=True)
    chosen: dict[str, Callable[[bool], Iterator[Table]]] = {
        **BENCHMARKS,
        "collectors": partial(collectors.run, only=options.collector),
    }
    for name in options.names or BENCHMARKS:
        tables, started = [], time.monotonic()
        for table in chosen[name](options.quick):
            print(table, flush=True)
            tables.append(table.to_plain())
        results[name] = tables
        print(f"({name} took {time.monotonic() - started:.0f} s)\n", flush=True)
    print(f"{time.monotonic() - began:.0f} s in all")
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Plugin distributions made for tests: a module and the metadata that an installation leaves behind."""

from __future__ import annotations

import textwrap
from pathlib import Path

COLLECTOR = """
from pathlib import Path
from bpfleet import Collector, Map, core, bcc, counter, hookimpl, label

@hookimpl
def bpfleet_collectors():
    return [Collector(name="{name}", version="1", help="", program={kind}(Path(r"{source}")), maps={maps})]
"""

SINK = """
import time
from bpfleet import SinkType, hookimpl

class Sink:
    def __init__(self, settings, context): {init}
    def write(self, frames): {write}
    def close(self): pass

@hookimpl
def bpfleet_sinks():
    return [SinkType(name="{name}", help="", open=Sink)]
"""


def distribution(
    directory: Path, name: str, entry_points: dict[str, str], module: str, *, group: str = "bpfleet.v1"
) -> dict[str, str]:
    """Put module `name` and its metadata into `directory`; returns the environment that finds them."""
    site = directory / "site"
    info = site / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (site / f"{name}.py").write_text(textwrap.dedent(module))
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    points = "\n".join(f"{point} = {target}" for point, target in entry_points.items())
    (info / "entry_points.txt").write_text(f"[{group}]\n{points}\n")
    return {"PYTHONPATH": str(site)}


def collector_module(name: str, source: Path, *, kind: str = "core", maps: str = "()") -> str:
    """The module of a plugin with one collector."""
    return COLLECTOR.format(name=name, source=source, kind=kind, maps=maps)


def sink_module(name: str, *, init: str = "pass", write: str = "pass") -> str:
    """The module of a plugin with one sink."""
    return SINK.format(name=name, init=init, write=write)


PROGRAM = """
#include <bpfleet/bpfleet.h>

struct {{
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16);
	__type(key, __u32);
	__type(value, __u64);
}} hits SEC(".maps");

SEC("tp_btf/sched_process_exec")
int on_exec(unsigned long long *ctx)
{{
	{body}
	return 0;
}}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
"""


def program(body: str = "") -> str:
    """A `.bpf.c` with a map `hits` (u32 → u64) and one program on each exec."""
    return PROGRAM.format(body=body)

"""What plain libbpf loads and attaches here, the agent loads, attaches and reads: objects of others."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from agent_process import PATIENCE, Agent
from bpfleet.kernel import MAP_TYPES
from bpfleet.loader.__main__ import _READABLE
from foreign import FEW, TOOLS, unpack

# libbpf looks for tracepoints in tracefs, which a host need not have mounted.
_TRIED = TOOLS if PATIENCE == 1 else FEW
_WITH_TRACEFS = 'mount -t tracefs tracefs /sys/kernel/tracing; exec "$@"'


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """The objects of Debian's libbpf-tools, in a folder of their own."""
    folder = tmp_path_factory.mktemp("foreign") / "programs"  # the worker may enter it, not the one above
    folder.mkdir()
    return unpack(folder, _TRIED)


@pytest.fixture(scope="module")
def plain(objects: Mapping[str, Path]) -> Mapping[str, Any]:
    """What a loader of nothing but libbpf makes of each."""
    program = Path(__file__).with_name("plain_libbpf.py")
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", _WITH_TRACEFS, "sh", sys.executable, program, *objects.values()],
        stdout=subprocess.PIPE,
        text=True,
        timeout=60 * PATIENCE,
        check=True,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return dict(zip(objects, lines, strict=True))


@pytest.fixture(scope="module")
def agent(objects: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    """An agent whose programs are these objects."""
    folder = next(iter(objects.values())).parent
    timeout = f"{30 * PATIENCE:.0f}s"
    config = f'[agent]\ninterval = "1s"\nprograms = "{folder}"\nload_timeout = "{timeout}"\n'
    made = Agent(config, tmp_path_factory.mktemp("agent"))
    try:
        made.wait_for(lambda: any(one["kind"] == "status" for one in made.records), 100)
        yield made
    finally:
        made.stop()


@pytest.mark.parametrize("tool", _TRIED)
def test_the_agent_takes_what_plain_libbpf_takes(agent: Agent, plain: Mapping[str, Any], tool: str) -> None:
    by_libbpf = plain[tool]
    if not by_libbpf["loads"]:
        pytest.skip("plain libbpf does not load every object on this kernel: the tools choose among programs")
    if not by_libbpf["attached"]:
        pytest.skip("plain libbpf attaches none of the object's programs on this kernel")
    (said,) = [one for one in agent.status()["collectors"] if one["name"] == tool]
    assert said["state"] == "running", said["error"]
    attached = {one["name"] for one in said["programs"] if one["attached"]}
    assert attached >= set(by_libbpf["attached"])
    kinds = {name: MAP_TYPES[number] for name, number in by_libbpf["maps"].items()}
    for name in (name for name, kind in kinds.items() if kind in _READABLE):
        assert agent.next_snapshot(tool, name)["complete"]

"""The agent with every probe and built-in collector, and this process making the events that they count."""

from __future__ import annotations

import gc
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from agent_process import PATIENCE, Agent, run
from bpfleet.doctor.kernel_config import read_config
from probes import PROBES, Probe, build, build_go_program, file_name, install

__all__ = [
    "BUILT_IN",
    "EVENTS",
    "EXACT",
    "READ_BY",
    "Running",
    "counted",
    "doctor",
    "excuse",
    "is_debians",
    "kernel_version",
]

BUILT_IN = sorted(
    point.name.removeprefix("collector.")
    for point in entry_points(group="bpfleet.v1")
    if point.name.startswith("collector.") and point.value.startswith("bpfleet_plugins.")
)
READ_BY = {"maps_walk": ["mmap", "walk", "key"], "maps_batch": ["batch", "key"], "maps_key": ["key"]}
"""Collectors of one object, and the methods that they are allowed."""


class Running:
    """An agent whose collectors are one for each probe, one for each kind of map, and the built-in ones."""

    def __init__(self, folder: Path) -> None:
        build()
        self.receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.receiver.bind(("127.0.0.1", 0))
        self.receiver.settimeout(5 * PATIENCE)
        self.cgroup = _new_cgroup()
        programs = folder / "programs"
        programs.mkdir()
        places = {"PYTHON": str(Path("/usr/bin/python3").resolve()), "CGROUP": str(self.cgroup)}
        install(programs, {"pid": os.getpid(), "port": self.receiver.getsockname()[1]}, places)
        interval = 1 if PATIENCE == 1 else 3  # so many maps take their time on an emulated processor
        config = (
            f'[agent]\ninterval = "{interval}s"\nprograms = "{programs}"\n'
            f'load_timeout = "{30 * PATIENCE:.0f}s"\n'
            + "".join(f"[collectors.{name}]\n{self._settings(name)}" for name in BUILT_IN)
            + "".join(
                f'[collectors.{name}]\nread = {methods}\nwalk_limit = "10s"\n'
                for name, methods in READ_BY.items()
            )
        )
        self.agent = Agent(config, folder)

    def _settings(self, name: str) -> str:
        """Of collectors that must be told what to look at."""
        if name == "pyflow":
            return f"pids = [{os.getpid()}]\n"
        if name == "gouprobe":
            return f'binary = "{build_go_program()}"\nsymbol = "main.work"\n'
        return ""

    def wait_until_sealed(self) -> None:
        """The first status comes once every collector has been loaded or refused."""
        self.agent.wait_for(lambda: any(one["kind"] == "status" for one in self.agent.records), 150)

    def stop(self) -> None:
        """End the agent, and let go of what events need."""
        self.agent.stop()
        self.receiver.close()
        if self.cgroup is not None:
            self.cgroup.rmdir()

    @contextmanager
    def inside(self) -> Iterator[None]:
        """In the cgroup; a socket belongs where its maker is."""
        home = Path("/proc/self/cgroup").read_text().rpartition("::")[2].strip()
        (self.cgroup / "cgroup.procs").write_text(str(os.getpid()))
        try:
            yield
        finally:
            (self.cgroup.parent / home.lstrip("/") / "cgroup.procs").write_text(str(os.getpid()))

    def collector(self, name: str) -> dict[str, Any]:
        """What `status` says of a collector."""
        (found,) = [one for one in self.agent.status()["collectors"] if one["name"] == name]
        return dict(found)

    def refusal(self, name: str) -> str:
        """Why a collector does not run; "" where it does."""
        said = self.collector(name)
        return "" if said["state"] == "running" else str(said["error"]["what"] + said["error"].get("log", ""))

    def hits(self, collector: str) -> int:
        """The global `hits` of a collector, in a snapshot that is yet to come."""
        snapshot = self.agent.next_snapshot(collector, ".bss")
        assert snapshot["complete"]
        (row,) = snapshot["rows"]
        return int(row["hits"])


def kernel_version() -> tuple[int, int]:
    """The running kernel's, such as (6, 12)."""
    major, minor = os.uname().release.split(".")[:2]
    return int(major), int(minor)


@cache
def doctor() -> Mapping[str, dict[str, Any]]:
    """What `bpfleet doctor` finds, by name: it tries each kind by bpf(2) alone, without libbpf."""
    done = run("doctor", "--format", "json", timeout=60 * PATIENCE)
    assert "Traceback" not in done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return {one["what"]: one for one in found if one["kind"] == "finding"}


def excuse(probe: Probe) -> str:
    """Why this kernel can't have a probe; "" where it can."""
    if kernel_version() < probe.needs:
        return f"since Linux {probe.needs[0]}.{probe.needs[1]}"
    config = read_config()
    assert config is not None, "the kernel's configuration can't be read"
    unset = [name for name in probe.options if config.options.get(name, "n") == "n"]
    if unset:
        return f"not configured in this kernel (CONFIG_{unset[0]})"
    said = doctor().get(probe.doctor, {"state": "ok"})
    if said["state"] == "ok" or is_debians():
        return ""
    return "refused by this kernel: " + said["detail"].rpartition(": ")[2]


def is_debians() -> bool:
    """Whether this is a stock kernel of Debian, on which all must work that its version has."""
    return os.uname().release.endswith("-amd64")


def _new_cgroup() -> Path:
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    root = next((Path(fields[1]) for fields in mounts if fields[2] == "cgroup2"), None)
    assert root is not None, "no cgroup v2 file system is mounted"
    made = root / f"bpfleet-kernel-test-{os.getpid()}"
    made.mkdir()
    return made


# ---- events: each makes some and returns how many it made


def _ask_for_groups(running: Running) -> int:
    for _ in range(43):
        os.getpgid(os.getppid())
    return 43


def _send_packets(running: Running) -> int:
    """From a socket made in the cgroup."""
    with running.inside(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(29):
            sender.sendto(b"x" * 40, running.receiver.getsockname())
            running.receiver.recv(100)
    return 29


def _collect(running: Running) -> int:
    for _ in range(7):
        gc.collect(2)
    return 7


def _be_busy(running: Running) -> int:
    """Half a second of CPU time, at 99 samples a second; how many come is not exact."""
    until = time.process_time() + 0.5
    while time.process_time() < until:
        pass
    return 49


def _wait_for_snapshots(running: Running) -> int:
    """Programs that are run before each snapshot."""
    for name in ("iter", "syscall"):
        if not running.refusal(file_name(name)):
            for _ in range(2):
                running.hits(file_name(name))
    return 2


def _choose(running: Running) -> int:
    """Connections that begin to avoid congestion in the way of the probe, where it is there."""
    if running.refusal(file_name("struct_ops")):
        return 11
    with socket.create_server(("127.0.0.1", 0)) as server:
        for _ in range(11):
            with socket.create_connection(server.getsockname(), timeout=5 * PATIENCE) as made:
                made.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"bpfleet_test")
    return 11


EVENTS = {
    "choices": _choose,
    "getpgid": _ask_for_groups,
    "packets": _send_packets,
    "collections": _collect,
    "busy": _be_busy,
    "snapshots": _wait_for_snapshots,
}
EXACT = frozenset(["getpgid", "packets", "collections", "choices"])
"""Events that are counted one by one."""


def counted(running: Running) -> Mapping[str, tuple[int, int]]:
    """For every probe that runs: (events that were made, hits that were counted).

    All at once: a snapshot takes its time where the processor is emulated.
    """
    names = [name for name in PROBES if not running.refusal(file_name(name))]
    gc.disable()  # what this process collects by itself while it waits would be counted, too
    try:
        return _counted(running, names)
    finally:
        gc.enable()


def _counted(running: Running, names: Sequence[str]) -> Mapping[str, tuple[int, int]]:
    before = {name: running.hits(file_name(name)) for name in names}
    made = {event: make(running) for event, make in EVENTS.items()}
    return {
        name: (made[PROBES[name].event] * PROBES[name].per_call, running.hits(file_name(name)) - before[name])
        for name in names
    }

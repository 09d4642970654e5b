"""`bpfleet run` as a process: its records as they come, its children, its end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

BPFLEET = str(Path(sys.executable).with_name("bpfleet"))

PATIENCE = float(os.environ.get("BPFLEET_TEST_PATIENCE", "1"))
"""How many times longer than usual things may take, as on a processor that is emulated."""

Record = dict[str, Any]


class Agent:
    """A running agent whose records come to us as JSON lines."""

    def __init__(
        self,
        config: str,
        directory: Path,
        *,
        sink: bool = True,
        environment: dict[str, str] | None = None,
        under: Sequence[str] = (),
    ) -> None:
        """`under` is a command that runs the agent, which it must become (exec)."""
        self.state = directory / "state"
        self.control = directory / "control"
        self.config = directory / "bpfleet.toml"
        self.records: list[Record] = []
        self.errors: list[str] = []
        self.cut_off: list[str] = []
        self.write_config(config, sink=sink)
        self.process = subprocess.Popen(
            [*under, BPFLEET, "run", "--config", str(self.config)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
        )
        self._readers = [
            threading.Thread(target=self._read_records, daemon=True),
            threading.Thread(target=self._read_errors, daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def write_config(self, config: str, *, sink: bool = True) -> None:
        """`config` with our state directory and control socket, and a sink that we read."""
        if "[agent]" not in config:
            config = "[agent]\n" + config
        own = f'[agent]\nstate = "{self.state}"'
        if "\ncontrol = " not in config:
            own += f'\ncontrol = "{self.control}"'
        config = config.replace("[agent]", own, 1)
        if sink:
            config += '\n[sinks.test]\ntype = "stdout"\nformat = "json"\n'
        self.config.write_text(config)

    def _read_records(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            try:
                self.records.append(json.loads(line))
            except ValueError:
                # A worker that is killed leaves its last line as far as it came; the next begins a new one.
                self.cut_off.append(line)

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.errors.append(line)

    @property
    def stderr(self) -> str:
        """All that it has said on stderr so far."""
        return "".join(self.errors)

    def wait_for(self, what: Callable[[], Any], seconds: float = 30.0) -> Any:
        """The first true value of `what`; fails with the agent's own words when none comes."""
        end = time.monotonic() + seconds * PATIENCE
        while time.monotonic() < end:
            found = what()
            if found:
                return found
            if self.process.poll() is not None:
                found = what()
                if found:
                    return found
                break
            time.sleep(0.02)
        raise AssertionError(
            f"waited {seconds} s in vain; exit code {self.process.poll()}\n{self.stderr}\n"
            f"{[str(record)[:500] for record in self.records[-3:]]}"
        )

    def snapshots(self, collector: str, map_name: str | None = None) -> list[Record]:
        """The snapshots so far of one collector (and map)."""
        return [
            one
            for one in list(self.records)
            if one["kind"] == "snapshot" and one["collector"] == collector and map_name in (None, one["map"])
        ]

    def next_snapshot(self, collector: str, map_name: str) -> Record:
        """A snapshot whose read begins from now on."""
        now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        found: Record = self.wait_for(
            lambda: next((one for one in self.snapshots(collector, map_name) if one["t0"] > now), None)
        )
        return found

    def status(self) -> Record:
        """The latest status record."""
        found: Record = self.wait_for(
            lambda: next((one for one in reversed(self.records) if one["kind"] == "status"), None)
        )
        return found

    def children(self, module: str) -> list[int]:
        """The pids of the supervisor's children that run `module`."""
        pid = self.process.pid
        found = []
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            try:
                words = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if module.encode() in words:
                found.append(int(child))
        return found

    def child(self, module: str, *, other_than: int = 0) -> int:
        """The pid of a child that runs `module`; waits for one."""
        found: int = self.wait_for(
            lambda: next((pid for pid in self.children(module) if pid != other_than), 0)
        )
        return found

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it; returns its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
            try:
                self.process.wait(20 * PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise
        for reader in self._readers:
            reader.join(5 * PATIENCE)
            assert not reader.is_alive(), "a process that it started still holds its output"
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()
        return self.process.returncode


def run(*arguments: str, timeout: float = 60.0, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run `bpfleet` to its end."""
    return subprocess.run(
        [BPFLEET, *arguments], capture_output=True, text=True, timeout=timeout, check=False, **options
    )

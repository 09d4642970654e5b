"""The fleet's aggregator: a real `bpfleet aggregate` on the embedded store, and what it costs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import zmq

from bench.processes import family, pss, ticks_ns
from bpfleet.keys import KeyPair, write_pair

__all__ = ["StartedAggregator", "Usage", "key_pairs"]

_BPFLEET = str(Path(sys.executable).with_name("bpfleet"))


def key_pairs(count: int) -> list[tuple[bytes, bytes]]:
    """(public, secret) of so many agents."""
    return [zmq.curve_keypair() for _ in range(count)]


class StartedAggregator:
    """An aggregator in `folder`; `admitted` are the public keys of its agents, None without CURVE."""

    def __init__(self, folder: Path, settings: str, store: str, admitted: Sequence[bytes] | None) -> None:
        folder.chmod(0o755)
        self.public = ""
        self._state, self._config, self._log = folder / "state", folder / "aggregator.toml", folder / "log"
        self._bind, self._words = "tcp://127.0.0.1:*", [settings]
        self._store = store
        if admitted is not None:
            public, secret = zmq.curve_keypair()
            self.public = public.decode()
            write_pair(folder / "key", KeyPair(self.public, secret.decode()))
            keys = folder / "agent-keys"
            keys.write_text("".join(f"{key.decode()} *\n" for key in admitted))
            keys.chmod(0o644)
            self._words += [f'key = "{folder / "key"}"', f'keys = "{keys}"', 'curve = "on"']
        self.start()

    def start(self) -> None:
        """Start it, where it was before, and wait until it listens."""
        words = "\n".join(self._words)
        self._config.write_text(
            f'[aggregator]\nbind = ["{self._bind}"]\nstate = "{self._state}"\n{words}\n'
            f"[store.duckdb]\n{self._store}\n"
        )
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [_BPFLEET, "aggregate", "--config", str(self._config)], stderr=subprocess.PIPE, text=True
            )
            assert self._process.stderr is not None
            for line in self._process.stderr:
                log.write(line.encode())
                if found := re.search(r"listening on (tcp://\S+?);", line):
                    break
            else:
                raise RuntimeError(f"the aggregator did not start:\n{self._log.read_text()}")
        # What it says from now on is for whoever looks on.
        self._pump = subprocess.Popen(
            ["sed", "-u", "s/^/  aggregator: /"], stdin=self._process.stderr, stdout=2
        )
        self._process.stderr.close()
        self.endpoint = self._bind = found.group(1)
        self.pid = self._process.pid

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.wait(20)
        self._pump.wait(20)

    def stored(self) -> int:
        """How many snapshots the store holds, by its own answer."""
        question = "SELECT count(*) AS n FROM snapshots"
        done = subprocess.run(
            [_BPFLEET, "query", "--config", str(self._config), "--format", "json", question],
            capture_output=True,
            text=True,
            timeout=300,
            check=True,
        )
        return int(json.loads(done.stdout.splitlines()[0])["n"])

    def __enter__(self) -> StartedAggregator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait(60)
        self._pump.wait(20)


def _cpu(pid: int) -> int:
    """ns; 0 for no process."""
    return sum(map(ticks_ns, family(pid))) if pid else 0


class Usage:
    """CPU and memory of one process and its shards, which may be followed by another."""

    def __init__(self, pid: int) -> None:
        self._begin(pid)
        self._memory: list[int] = []

    def _begin(self, pid: int) -> None:
        self._pid, self._cpu, self._at = pid, _cpu(pid), os.times().elapsed

    def follow(self, pid: int) -> None:
        """From now on this process."""
        self._begin(pid)

    def look(self) -> None:
        """Take its memory now."""
        if self._pid and (memory := sum(map(pss, family(self._pid)))):
            self._memory.append(memory >> 20)

    def __str__(self) -> str:
        if not self._pid or not self._memory:
            return "aggregator: not measured"
        used = (_cpu(self._pid) - self._cpu) / 1e9 / (os.times().elapsed - self._at)
        every = max(1, len(self._memory) // 12)
        memory = " ".join(map(str, self._memory[::every]))
        return (
            f"aggregator: CPU {used:.2f} of a core; memory on the way {memory} MiB, then {self._memory[-1]}"
        )

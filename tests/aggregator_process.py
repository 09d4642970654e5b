"""`bpfleet aggregate` as a process: its lines as they come, its store, its end."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import sqlite_store
from agent_process import BPFLEET
from distributions import distribution


def privileged_port() -> int:
    """One below 1024 that nobody has, which only root may bind."""
    lowest = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    for port in range(1023, 600, -1):
        with socket.socket() as one:
            try:
                one.bind(("127.0.0.1", port))
            except OSError:
                continue
            if port < lowest:
                return port
    pytest.skip(f"every port below {lowest} needs no root here, or is taken")


class AggregatorProcess:
    """A running aggregator; `restart` starts it anew on the same endpoint and state.

    It runs as nobody, so `directory` is one that others may enter: fixture `shared_path`. With `terminal` its
    stderr is one.
    """

    def __init__(
        self,
        directory: Path,
        settings: str = "",
        *,
        store: str = "[store.rows]",
        bind: str = "tcp://127.0.0.1:*",
        prefix: Sequence[str] = (),
        terminal: bool = False,
        shards: int = 1,
    ) -> None:
        self.directory, self.state = directory, directory / "aggregator"
        self._settings, self._store, self._bind, self._prefix = settings, store, bind, list(prefix)
        self._terminal = terminal
        if shards > 1:
            self._settings += f"\nshards = {shards}"
        self.environment = {**os.environ}
        if not (directory / "site").exists():
            source = Path(sqlite_store.__file__).read_text()
            distribution(directory, "sqlite_store", {"store.rows": "sqlite_store"}, source)
        self.environment["PYTHONPATH"] = str(directory / "site")
        if not self.state.exists():
            self.state.mkdir(mode=0o777)
            shutil.chown(self.state, "nobody")
        self.lines: list[str] = []
        self.start()

    def start(self) -> None:
        """Begin, and wait until it listens."""
        config = self.directory / "aggregator.toml"
        config.write_text(
            f'[aggregator]\nbind = ["{self._bind}"]\nstate = "{self.state}"\nuser = "nobody"\n'
            f"{self._settings}\n{self._store}\n"
        )
        self.said_before = len(self.lines)
        ours, theirs = os.openpty() if self._terminal else os.pipe()
        self.process = subprocess.Popen(
            [*self._prefix, BPFLEET, "aggregate", "--config", str(config)],
            stderr=theirs,
            env=self.environment,
        )
        os.close(theirs)
        self._reader = threading.Thread(target=self._read, args=(ours,), daemon=True)
        self._reader.start()
        line = self.wait_for_line("listening on")
        match = re.search(r"(?:tcp|ipc)://[^\s;,]+", line)
        assert match is not None
        self.endpoint = self._bind = match.group()

    def _read(self, fd: int) -> None:
        rest = ""
        # Of a terminal the end is an error. What stands in the place of another line is a line here.
        with suppress(OSError), os.fdopen(fd, "rb", buffering=0) as stderr:
            while data := stderr.read(1 << 16):
                *lines, rest = (rest + data.decode()).replace("\r", "\n").split("\n")
                self.lines += (f"{line}\n" for line in lines if line.strip())
        self.lines += [rest] if rest else []

    def wait_for_line(self, words: str, seconds: float = 30.0) -> str:
        """The first line since the (latest) start that has these words."""
        return str(
            self.wait_for(
                lambda: next((x for x in self.lines[self.said_before :] if words in x), ""), seconds
            )
        )

    def wait_for(self, what: Callable[[], Any], seconds: float = 30.0) -> Any:
        """The first true value of `what`; fails with the aggregator's own words when none comes."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if found := what():
                return found
            if self.process.poll() is not None:
                self._reader.join(5)
                if found := what():
                    return found
                break
            time.sleep(0.02)
        raise AssertionError(f"in vain; exit code {self.process.poll()}\n{self.said}")

    @property
    def said(self) -> str:
        """All its lines."""
        return "".join(self.lines)

    def stored(self, records: int = 0) -> list[tuple[str, str, int, str, bytes]]:
        """(agent, spool, seq, kind, content) of all that is in the store, once it is so many records."""
        self.wait_for(lambda: len(sqlite_store.stored(self.state)) >= records)
        return sqlite_store.stored(self.state)

    def seqs(self, records: int = 0) -> list[int]:
        """The seqs stored, in order, once they are so many."""
        return [row[2] for row in self.stored(records)]

    def shards(self, number: int) -> list[int]:
        """The pids of its shards, by their age, once they are so many."""
        return list(self.wait_for(lambda: pids if len(pids := self._shards()) == number else None))

    def _shards(self) -> list[int]:
        words = ["pgrep", "-P", str(self.process.pid), "-f", "bpfleet_aggregator.shard"]
        found = subprocess.run(words, capture_output=True, text=True, timeout=20)
        return [int(pid) for pid in found.stdout.split()]

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait(20)
        self._reader.join(5)

    def restart(self) -> None:
        """Start again where it was."""
        self.start()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it; returns its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()
                raise
        self._reader.join(5)
        return self.process.returncode

"""Peers: other ways to read a map, each in a process of its own that times itself and answers over a pipe."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import numpy as np

from bench.maps import Digest, FilledMap, digest

__all__ = ["SOURCES", "Bpftool", "Peer", "PeerError", "bcc_reader", "c_reader", "compiled", "peer"]

SOURCES = Path(__file__).with_name("peers")
"""Programs that are compiled, and scripts."""
_BINARIES = Path(__file__).with_name("bin")


class PeerError(Exception):
    """A peer ended or could not be started; the message has what it said."""


def compiled(name: str) -> Path:
    """The program `name` of `bench/peers`, compiled with `gcc -O2`, or with Go where the name ends in `.go`;
    anew where it is older than its source."""
    source, made = SOURCES / (name if name.endswith(".go") else f"{name}.c"), _BINARIES / name
    if not made.exists() or made.stat().st_mtime < source.stat().st_mtime:
        _BINARIES.mkdir(exist_ok=True)
        draft = made.with_name(f".{name}.{os.getpid()}")
        command = ["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(draft), str(source)]
        command += ["-lbpf", "-lpthread"]
        if source.suffix == ".go":
            command = ["go", "build", "-o", str(draft), str(source)]
        alone = {"GOCACHE": str(_BINARIES / "go-cache"), "GO111MODULE": "off", "GOTOOLCHAIN": "local"}
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env={**os.environ, **alone}
        )
        if done.returncode:
            raise PeerError(f"{source.name}: {done.stderr}")
        draft.rename(made)
    return made


class Peer:
    """A child that takes `time METHOD REPEATS` and `digest METHOD`, and answers each with two numbers."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def time(self, method: str, repeats: int) -> tuple[int, int]:
        """(ns that `repeats` reads took, rows of the last)."""
        return self._ask(f"time {method} {repeats}")

    def digest(self, method: str) -> Digest:
        """Rows and checksum of one read."""
        return self._ask(f"digest {method}")

    def _ask(self, command: str) -> tuple[int, int]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(command + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass
        answer = self._process.stdout.readline().split()
        if len(answer) != 2:
            said = self._process.stderr.read() if self._process.stderr else ""
            raise PeerError(f"{command!r}: {said.strip()[-500:] or 'the peer ended'}")
        return int(answer[0]), int(answer[1])


@contextmanager
def peer(command: Sequence[str], fd: int) -> Iterator[Peer]:
    """A child that inherits `fd`, and ends with the context."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        pass_fds=[fd],
        cwd=Path(__file__).parent.parent,
    )
    try:
        yield Peer(process)
    finally:
        # Closing its input ends it. What a peer that has ended did not take can't be flushed any more.
        with suppress(BrokenPipeError):
            process.stdin.close()  # type: ignore[union-attr]
        with process:
            pass


def c_reader(made: FilledMap) -> AbstractContextManager[Peer]:
    """The C program, over the same map."""
    return peer([str(compiled("reader")), str(made.fd)], made.fd)


def bcc_reader(made: FilledMap) -> AbstractContextManager[Peer]:
    """bcc's own table object, over the same map."""
    shape = made.shape
    arguments = [str(made.fd), shape.type, str(shape.key_bytes), str(shape.value_bytes), str(made.entries)]
    return peer([sys.executable, "-m", "bench.bcc_reader", *arguments], made.fd)


class Bpftool:
    """`bpftool -j map dump`, a process each time, its output thrown away."""

    def __init__(self, made: FilledMap) -> None:
        program = shutil.which("bpftool") or "/usr/sbin/bpftool"
        if not Path(program).exists():
            raise PeerError("there is no bpftool; apt-get install bpftool")
        self._command = [program, "-j", "map", "dump", "id", str(made.id)]
        self._shape = made.shape

    def time(self, repeats: int) -> int:
        """ns that `repeats` dumps took."""
        began = time.perf_counter_ns()
        for _ in range(repeats):
            subprocess.run(self._command, stdout=subprocess.DEVNULL, check=True)
        return time.perf_counter_ns() - began

    def digest(self) -> Digest:
        """Rows and checksum of one dump; values of several CPUs added up."""
        rows = json.loads(subprocess.run(self._command, capture_output=True, check=True).stdout)
        keys = np.frombuffer(b"".join(_bytes(row["key"]) for row in rows), f"V{self._shape.key_bytes}")
        # Of a per-CPU map a row has one value for each CPU.
        every = [one["value"] for row in rows for one in row.get("values", (row,))]
        flat = np.frombuffer(b"".join(map(_bytes, every)), np.uint64)
        values = flat.reshape(len(rows), -1, self._shape.value_bytes // 8).sum(axis=1, dtype=np.uint64)
        return digest([keys, *values.T])


def _bytes(numbers: Sequence[str]) -> bytes:
    return bytes(int(number, 16) for number in numbers)

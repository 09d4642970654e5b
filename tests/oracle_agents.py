"""The oracle's agents: processes that are started anew after a kill, and what each was promised."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
import uuid
from pathlib import Path

__all__ = ["OracleAgent"]

PROGRAM = Path(__file__).with_name("oracle_agent.py")


class OracleAgent:
    """One agent's process; `disk` is where the real sink keeps its state."""

    def __init__(
        self, kind: str, prefix: list[str], endpoint: str, directory: Path, disk: Path, keys: list[str]
    ) -> None:
        self.kind, self.id = kind, str(uuid.uuid4())
        self._directory, self._state = directory, disk / directory.name
        self._words = [*prefix, sys.executable, str(PROGRAM), kind, endpoint]
        self._words += [str(directory), str(self._state), self.id, *keys]
        self.unsure: set[int] = set()
        """Records that were in a spool when it was damaged: they may be lost, or come by the new one too."""
        directory.mkdir(parents=True)
        self._state.mkdir(parents=True)
        self.start()

    def start(self) -> None:
        """Begin, where it was."""
        self.process = subprocess.Popen(self._words, stdout=subprocess.DEVNULL)

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait(20)

    def finish(self) -> None:
        """Let it deliver all that it has."""
        # One that has just been started anew would die of the signal.
        end = time.monotonic() + 30
        while not self._hears_sigterm() and time.monotonic() < end:
            time.sleep(0.05)
        self.process.send_signal(signal.SIGTERM)

    def _hears_sigterm(self) -> bool:
        words = Path(f"/proc/{self.process.pid}/status").read_text().split()
        return bool(int(words[words.index("SigCgt:") + 1], 16) >> (signal.SIGTERM - 1) & 1)

    def finished(self, seconds: float) -> bool:
        """Whether it came to its end by itself, in that time."""
        try:
            return self.process.wait(seconds) == 0
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGUSR1)  # it says where it stands
            time.sleep(0.5)
            self.kill()
            return False

    @property
    def spool(self) -> str:
        """The id of its spool, where it speaks the protocol itself."""
        with sqlite3.connect(f"file:{self._directory / 'spool.sqlite'}?mode=ro", uri=True) as database:
            (found,) = database.execute("SELECT id FROM name").fetchone()
        database.close()
        return str(found)

    def damage_spool(self) -> bool:
        """While it is killed: random bytes in each page of the sink's spool but the first."""
        found = list(self._state.rglob("zmq.sqlite"))
        if not found:
            return False
        path = found[0]
        database = sqlite3.connect(path)
        rows = database.execute("SELECT first FROM records WHERE kind = 'snapshot'").fetchall()
        self.unsure |= {number for (number,) in rows}
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        database.close()
        with path.open("r+b") as file:
            file.seek(4096)
            file.write(os.urandom(path.stat().st_size - 4096))
        return True

    @property
    def was_set_aside(self) -> bool:
        """Whether a spool that was damaged was noticed."""
        return len([one for one in self._state.rglob("zmq.sqlite*") if "damaged" in one.name]) > 0

    def promised(self) -> set[int]:
        """The records that must be stored."""
        if self.kind == "sink":
            return self._numbers("delivered") - self.unsure
        return self.made()

    def made(self) -> set[int]:
        """The records that may be stored."""
        if self.kind == "sink":
            return self._numbers("made")
        database = sqlite3.connect(self._directory / "spool.sqlite")
        found = {number for (number,) in database.execute("SELECT number FROM made")}
        assert database.execute("SELECT count(*) FROM pending").fetchone() == (0,), "not all is acknowledged"
        database.close()
        return found

    def replayed(self) -> int:
        """How often it sent a record again that had been acknowledged."""
        path = self._directory / "replayed"
        return path.stat().st_size if path.exists() else 0

    def _numbers(self, name: str) -> set[int]:
        return {int(line) for line in (self._directory / name).read_text().splitlines() if line.strip()}

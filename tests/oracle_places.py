"""Where the oracle's processes live: two network namespaces with a cable between them, and small disks."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

__all__ = ["ADDRESS", "Network", "fill", "small_disk"]

ADDRESS = "10.213.7.1"


def command(*words: str) -> None:
    """Run it; it must work."""
    subprocess.run(words, check=True, capture_output=True, timeout=20)


@dataclass
class Network:
    """Two namespaces, `a` for the aggregator and `b` beyond a cable that can be pulled."""

    name: str = field(default_factory=lambda: f"bo{os.getpid() % 100_000}")

    def __enter__(self) -> Network:
        a, b = self.a, self.b
        for one in (a, b):
            command("ip", "netns", "add", one)
            command("ip", "-n", one, "link", "set", "lo", "up")
        command("ip", "-n", a, "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", b)
        for one, address in ((a, ADDRESS), (b, "10.213.7.2")):
            command("ip", "-n", one, "address", "add", f"{address}/24", "dev", "cable")
            command("ip", "-n", one, "link", "set", "cable", "up")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for one in (self.a, self.b):
            command("ip", "netns", "delete", one)

    @property
    def a(self) -> str:
        return f"{self.name}a"

    @property
    def b(self) -> str:
        return f"{self.name}b"

    def inside(self, namespace: str) -> list[str]:
        """Before a command: it runs there."""
        return ["ip", "netns", "exec", namespace]

    def cut(self) -> None:
        """Pull the cable: packets vanish, no connection is closed."""
        command("ip", "-n", self.b, "link", "set", "cable", "down")

    def mend(self) -> None:
        """Put it back."""
        command("ip", "-n", self.b, "link", "set", "cable", "up")


@contextmanager
def small_disk(place: Path, mebibytes: int, owner: str) -> Iterator[Path]:
    """A tmpfs at `place`."""
    place.mkdir()
    command("mount", "-t", "tmpfs", "-o", f"size={mebibytes}m,mode=0755", "tmpfs", str(place))
    try:
        shutil.chown(place, owner)
        yield place
    finally:
        command("umount", "-l", str(place))


def fill(disk: Path, seconds: float) -> None:
    """Take all the room that there is, for a while."""
    ballast = disk / "ballast"
    try:
        with ballast.open("wb", 0) as file:
            while file.write(bytes(1 << 16)):
                pass
    except OSError:
        pass
    time.sleep(seconds)
    ballast.unlink()

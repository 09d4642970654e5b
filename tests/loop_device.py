"""Block devices that tests make for themselves: a loop device over a file, and direct I/O on it."""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_BLKDISCARD = 0x1277


class LoopDevice:
    """An attached loop device; `fd` is open for direct I/O."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.name = path.rpartition("/")[2]
        self.fd = os.open(path, os.O_RDWR | os.O_DIRECT)

    @property
    def dev(self) -> int:
        """As the kernel has it: major << 20 | minor."""
        number = os.stat(self.path).st_rdev
        return os.major(number) << 20 | os.minor(number)

    def read(self, at: int, size: int) -> int:
        """Bytes read by one read; OSError as the device says."""
        with mmap.mmap(-1, size) as room:
            return os.preadv(self.fd, [room], at)

    def write(self, at: int, size: int) -> int:
        """Bytes written by one write."""
        with mmap.mmap(-1, size) as room:
            room.write(b"x" * size)
            return os.pwritev(self.fd, [room], at)

    def flush(self) -> None:
        """Have the device make all of it durable."""
        os.fsync(self.fd)

    def discard(self, at: int, size: int) -> None:
        """Have the device forget that range."""
        fcntl.ioctl(self.fd, _BLKDISCARD, struct.pack("QQ", at, size))

    def stat(self) -> dict[str, int]:
        """The kernel's own counters of it: requests and bytes, Documentation/block/stat.rst."""
        fields = list(map(int, Path(f"/sys/block/{self.name}/stat").read_text().split()))
        return {
            "reads": fields[0],
            "read_bytes": fields[2] * 512,
            "writes": fields[4],
            "written_bytes": fields[6] * 512,
            "discards": fields[11],
            "discarded_bytes": fields[13] * 512,
            "flushes": fields[15],
        }


@contextmanager
def loop_device(backing: Path, *options: str) -> Iterator[LoopDevice]:
    """A loop device over the file `backing`; the test is skipped where the kernel has none."""
    done = subprocess.run(
        ["losetup", "--find", "--show", *options, backing], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no loop device can be made here: {done.stderr.strip()}")
    made = LoopDevice(done.stdout.strip())
    try:
        yield made
    finally:
        os.close(made.fd)
        subprocess.run(["losetup", "--detach", made.path], check=True)

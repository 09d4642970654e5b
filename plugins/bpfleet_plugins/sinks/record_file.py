"""A file of records that grows by whole records only, whatever stops its writer.

The format is `bpfleet.wire.stream`'s. One process writes a file at a time (flock).
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bpfleet.errors import PrivilegeError, SinkError, WireError
from bpfleet.wire import Decoder, Limits, Snapshot, Status, read_file
from bpfleet.wire.stream import CutOff

__all__ = ["RecordFile"]

log = logging.getLogger("bpfleet.sink.file")

_ATTEMPTS = 10
_MODE = 0o640
_SPOILT = "spoilt"
_ANY_SIZE = Limits(frame_bytes=1 << 30)


class RecordFile:
    """An open, locked file of records, ready to append to.

    Opening it makes the folder where `make_folder` says so, cuts off what a crash left of a last record,
    and puts aside (as NAME.spoilt) a file of ours that is damaged inside. Raises PrivilegeError naming
    `user` and folder where the user may not write there; SinkError for whatever else is in the way.
    """

    def __init__(self, path: Path, user: str, *, make_folder: bool = False) -> None:
        self.path = path
        self._user = user
        self._fd = -1
        self.size = 0
        """Bytes of whole records."""
        self.began = time.time()
        """Wall time of the first record, s."""
        with self._explained("opened"):
            if make_folder:
                path.parent.mkdir(parents=True, exist_ok=True)
        self._check_folder()
        for _ in range(_ATTEMPTS):
            self._open()
            if self._mend():
                return
            self.close()
        raise SinkError(
            "is being renamed again and again",
            where=str(path),
            remedy="let only one program rotate this file",
        )

    def append(self, data: bytes | memoryview) -> None:
        """Write one record whole, or leave the file as it was and raise SinkError."""
        if not self.size:
            self.began = time.time()
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError as error:
            # Should even this fail, the next opening finds and cuts off what is left.
            with suppress(OSError):
                os.ftruncate(self._fd, self.size)
            raise self._error(error, "written") from None
        self.size += len(data)

    def moved(self) -> bool:
        """Whether the path no longer leads to this file, or the file was emptied by another program."""
        try:
            there, here = os.stat(self.path), os.fstat(self._fd)
        except FileNotFoundError:
            return True
        return (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino) or here.st_size < self.size

    def rename(self, target: Path) -> None:
        """Give the file another name in its folder; it stays open and locked until `close`."""
        with self._explained("renamed"):
            os.rename(self.path, target)

    def sync(self) -> None:
        """Have the kernel bring everything written to the disk."""
        with self._explained("written"):
            os.fsync(self._fd)

    def close(self) -> None:
        """Close, which also unlocks."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    # ---- opening

    def _open(self) -> None:
        with self._explained("opened"):
            # Not blocking, so that a FIFO without a reader is an error and no wait.
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC
            self._fd = os.open(self.path, flags, _MODE)
        if not stat.S_ISREG(os.fstat(self._fd).st_mode):
            self.close()
            raise SinkError(
                "is no regular file",
                where=str(self.path),
                remedy="name a file, or use the stdout sink for pipes and terminals",
            )
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise SinkError(
                "another process is writing this file",
                where=str(self.path),
                remedy="give each agent and each sink a path of its own",
            ) from None

    def _mend(self) -> bool:
        """Make the file ready to append to; False where the path leads elsewhere by now."""
        self.size = 0
        if self.moved():
            return False
        self.size = os.fstat(self._fd).st_size
        if not self.size:
            return True
        if not _is_ours(os.pread(self._fd, 8, 0)):
            self.close()
            raise SinkError(
                "holds something else than bpfleet's records; it is left as it is",
                where=str(self.path),
                remedy="name another path, or move that file away",
            )
        try:
            self._read_through()
        except CutOff as cut:
            log.warning(
                "%s: the last record was cut off when its writer was stopped; %d bytes are removed",
                self.path,
                self.size - cut.offset,
            )
            os.ftruncate(self._fd, cut.offset)
            self.size = cut.offset
        except WireError as error:
            aside = _free_name(self.path, _SPOILT)
            log.warning("%s is damaged (%s); it is kept as %s", self.path, error.what, aside)
            self.rename(aside)
            return False
        return True

    def _read_through(self) -> None:
        """Check that the file is whole records; find when the first was made."""
        decoder = Decoder(_ANY_SIZE)
        known = False
        for _, frame in read_file(self.path, _ANY_SIZE):
            if known:
                continue
            try:
                record = decoder.decode(frame)
            except WireError:
                continue
            if isinstance(record, (Snapshot, Status)):
                # A clock that was ahead must not put rotation off.
                self.began = min(self.began, (record.t1 + record.wall_offset) / 1e9)
                known = True

    def _check_folder(self) -> None:
        """Rotation makes files in the folder; better to say now than in an hour that it can't."""
        if self.path.parent.is_dir() and not self._may_write_folder():
            raise self._barred()

    def _may_write_folder(self) -> bool:
        return os.access(self.path.parent, os.W_OK | os.X_OK, effective_ids=True)

    # ---- errors

    @contextmanager
    def _explained(self, done: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._error(error, done) from None

    def _error(self, error: OSError, done: str) -> SinkError | PrivilegeError:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return self._barred()
        remedy = {
            errno.ENOSPC: "free some space, or lower rotate_size and keep; until then records wait",
            errno.EDQUOT: f"raise the quota of user {self._user!r}, or lower rotate_size and keep",
            errno.ENOENT: f"make the folder where user {self._user!r} can reach it (not in /root, say), "
            "or name another path",
            errno.ENOTDIR: "name a path whose parents are folders",
            errno.EISDIR: "name a file in that folder",
        }.get(error.errno or 0, "")
        return SinkError(f"can't be {done}: {error.strerror}", where=str(self.path), remedy=remedy)

    def _barred(self) -> PrivilegeError:
        if self._may_write_folder():
            return PrivilegeError(
                f"user {self._user!r} may not write this file",
                where=str(self.path),
                remedy=f"chown {self._user} {self.path}, or move that file away",
            )
        return PrivilegeError(
            f"user {self._user!r} may not write in folder {self.path.parent}",
            where=str(self.path),
            remedy="name a relative path (under the agent's state folder), or one in a folder made with "
            f"install -d -o {self._user} FOLDER",
        )


def _is_ours(head: bytes) -> bool:
    """Whether a file that begins so is ours: a map whose first key is `v`, or a zstd frame as `bin`.

    The beginning of such a beginning counts, so that a crash in the very first record is mended.
    """
    first = head[0]
    if first in (0xC4, 0xC5, 0xC6):
        expected, at = b"\x28\xb5\x2f\xfd", {0xC4: 2, 0xC5: 3, 0xC6: 5}[first]
    elif 0x81 <= first <= 0x8F or first == 0xDE:
        expected, at = b"\xa1v\x01", 3 if first == 0xDE else 1
    else:
        return False
    found = head[at : at + len(expected)]
    return found == expected[: len(found)]


def _free_name(path: Path, ending: str) -> Path:
    """`path.ending`, or with a number behind it the first that is not taken."""
    taken = {name.name for name in path.parent.iterdir()}
    number = 0
    while True:
        name = f"{path.name}.{ending}" + (f".{number}" if number else "")
        if name not in taken:
            return path.with_name(name)
        number += 1

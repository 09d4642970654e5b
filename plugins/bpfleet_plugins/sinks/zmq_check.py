"""What would keep the zmq sink from its keys or its spool, looked at without opening either.

An agent may be running meanwhile: nothing here takes the lock or writes.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

import zmq

from bpfleet import BpfleetError, ConfigError, SinkContext, SinkError
from bpfleet.errors import PrivilegeError
from bpfleet.keys import KeyPair, read_pair
from bpfleet_plugins.sinks.spool_file import APPLICATION, VERSION
from bpfleet_plugins.sinks.spool_place import Damaged, check_place
from bpfleet_plugins.sinks.zmq_settings import ZmqSettings

__all__ = ["own_pair", "problems", "spool_path"]

_HEAD = struct.Struct(">16s44xI4xI")
"""Of a SQLite file: what it is, user_version, application_id."""
_MAGIC = b"SQLite format 3\0"
_ASIDE = "the agent would set it aside and begin anew: what waits in it would not be delivered"


def own_pair(settings: ZmqSettings, state: Path) -> KeyPair | None:
    """The agent's keys, where any endpoint needs them; raises ConfigError or PrivilegeError."""
    if not any(settings.server_key_of(one) for one in settings.endpoints):
        return None
    path = state / settings.key
    pair = read_pair(path)
    if zmq.curve_public(pair.secret.encode()) != pair.public.encode():
        raise ConfigError(
            "the public key in the key file is not that of the secret key",
            where=str(path),
            remedy="bpfleet keys new --force makes a new pair",
        )
    return pair


def spool_path(context: SinkContext) -> Path:
    """Where this sink's spool is."""
    return context.state / "spool" / f"{context.name}.sqlite"


def problems(settings: ZmqSettings, context: SinkContext) -> Iterator[BpfleetError]:
    """One error for each; to be called as the user that the sink runs as."""
    try:
        own_pair(settings, context.state)
    except BpfleetError as error:
        yield error
    path = spool_path(context)
    places = (_nearest(path.parent), _nearest(context.state / "dead-letters"))
    barred = [told for place in dict.fromkeys(places) if (told := _folder(place, context.user))]
    yield from barred
    if barred or not path.parent.is_dir():
        return
    yield from _file(path, context.user)
    yield from _disk(path, settings.spool_size)


def _nearest(folder: Path) -> Path:
    """Where it is, or is to be made."""
    return folder if os.path.lexists(folder) else folder.parent


def _folder(place: Path, user: str) -> BpfleetError | None:
    if not os.path.lexists(place):
        return None  # the state directory is made when the agent starts
    if not place.is_dir():
        return SinkError(
            "a folder that the sink needs is no folder", where=str(place), remedy="move away what is there"
        )
    if not os.access(place, os.R_OK | os.W_OK | os.X_OK, effective_ids=True):
        return PrivilegeError(
            f"user {user!r} may not write there",
            where=str(place),
            remedy=f"chown -R {user} {place}",
        )
    return None


def _file(path: Path, user: str) -> Iterator[BpfleetError]:
    try:
        check_place(path, user)
    except Damaged as error:
        regular = stat.S_ISREG(os.lstat(path).st_mode)
        remedy = f"chown {user} {path}; chmod 600 {path}" if regular else "move away what is there"
        yield SinkError(f"the spool can't be used: {error}; {_ASIDE}", where=str(path), remedy=remedy)
        return
    except BpfleetError as error:
        yield error
        return
    if not path.exists():
        return
    if path.stat().st_mode & 0o077:
        yield PrivilegeError(
            f"others may look into the spool (mode {stat.S_IMODE(path.stat().st_mode):04o})",
            where=str(path),
            remedy=f"chmod 600 {path}",
        )
    with path.open("rb") as file:
        head = file.read(_HEAD.size)
    if not head:
        return  # begun, and never used
    magic, version, application = _HEAD.unpack(head.ljust(_HEAD.size, b"\0"))
    if magic != _MAGIC or application != APPLICATION:
        yield SinkError(
            f"what lies in the spool's place is no spool; {_ASIDE}",
            where=str(path),
            remedy="move it away",
        )
    elif version != VERSION:
        yield SinkError(
            f"the spool is of version {version}, this release's is {VERSION}; {_ASIDE}",
            where=str(path),
            remedy="first let the release that wrote it deliver what waits",
        )


def _disk(path: Path, size: int) -> Iterator[BpfleetError]:
    found = os.statvfs(path.parent)
    free = found.f_bavail * found.f_frsize
    needed = max(1 << 20, size // 8)
    if free < needed:
        yield SinkError(
            f"the spool's disk has {free >> 20} MiB left, a spool of {size >> 20} MiB needs"
            f" {needed >> 20} at least",
            where=str(path.parent),
            remedy="free some space on it, or set a smaller spool_size",
        )

"""cgroup: the id of a cgroup (v2) → its path, such as /system.slice/docker-0123….scope.

The id is what bpf_get_current_cgroup_id tells: the inode of the cgroup's directory. The kernel never gives
one twice, so what was found once stays true, also when the cgroup is gone.
"""

from __future__ import annotations

import os
import re
import time
from collections import OrderedDict, deque
from pathlib import Path
from typing import Any

import numpy as np

from bpfleet import Decoder, hookimpl

__all__ = ["Cgroups", "bpfleet_decoders"]

_LONGEST = 256
_MOST_KNOWN = 1 << 15
_MOST_WALKED = 1 << 14
_PAUSE = 0.1
_REFRESH = 10.0
_SHARE = 20
_ESCAPED = re.compile(r"\\([0-7]{3})")


class Cgroups:
    """Paths by id, from walks through the mounted hierarchy: when an id is met that is not known, and every
    `_REFRESH` seconds, so that a cgroup that has lived a while has its name after its end too.

    A walk looks at each cgroup once; all walks take at most a twentieth of the time. Of at most `_MOST_KNOWN`
    ids the path is remembered: those that were neither asked for nor found for longest make room."""

    def __init__(self, mounts: Path = Path("/proc/self/mounts")) -> None:
        self._mounts = mounts
        self._known: OrderedDict[int, str] = OrderedDict()
        self._next_walk = self._refresh = 0.0

    def paths(self, numbers: Any) -> Any:
        """The path of each cgroup, the start of a long one cut; the id where there is none."""
        ids = numbers.tolist()
        now = time.monotonic()
        unknown = any(number not in self._known for number in ids)
        if now >= (self._next_walk if unknown else self._refresh):
            self._learn(ids, now)
        shown = [self._path(number).encode("utf-8", "replace")[-_LONGEST:] for number in ids]
        return np.array(shown, f"S{_LONGEST}")

    def _path(self, number: int) -> str:
        path = self._known.get(number)
        if path is None:
            return str(number)
        self._known.move_to_end(number)
        return path

    def _learn(self, ids: list[int], now: float) -> None:
        root = self._root()
        found = {} if root is None else _walk(root)
        if len(found) < _MOST_WALKED:
            for number in ids:
                # It was there before the walk began, and is gone now, or out of our sight: for good.
                self._known.setdefault(number, str(number))
        for number, path in found.items():
            self._known[number] = path
            self._known.move_to_end(number)
        while len(self._known) > _MOST_KNOWN:
            self._known.popitem(last=False)
        end = time.monotonic()
        self._next_walk = end + max(_PAUSE, _SHARE * (end - now))
        self._refresh = max(self._next_walk, end + _REFRESH)

    def _root(self) -> str | None:
        """Where the hierarchy is mounted."""
        try:
            lines = self._mounts.read_text(errors="surrogateescape").splitlines()
        except OSError:
            return None
        fields = (line.split(" ") for line in lines)
        return next((_unescaped(one[1]) for one in fields if len(one) > 2 and one[2] == "cgroup2"), None)


def _unescaped(path: str) -> str:
    return _ESCAPED.sub(lambda match: chr(int(match.group(1), 8)), path)


def _walk(root: str) -> dict[int, str]:
    """id → path of at most `_MOST_WALKED` cgroups, those near the root first."""
    found: dict[int, str] = {}
    waiting = deque([""])
    while waiting and len(found) < _MOST_WALKED:
        path = waiting.popleft()
        try:
            about = os.stat(root + path)
            found[about.st_ino] = path or "/"
            if about.st_nlink > 2:  # a link for each cgroup inside
                with os.scandir(root + path) as entries:
                    waiting.extend(f"{path}/{entry.name}" for entry in entries if entry.is_dir())
        except OSError:  # gone meanwhile
            continue
    return found


@hookimpl
def bpfleet_decoders() -> list[Decoder]:
    """The decoder of this plugin."""
    return [
        Decoder(name="cgroup", help="the cgroup's path", ctype=f"char[{_LONGEST}]", decode=Cgroups().paths)
    ]

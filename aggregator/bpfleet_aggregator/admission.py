"""Which keys are admitted, and for which agent each speaks."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bpfleet.errors import ConfigError
from bpfleet_aggregator.report import Report

__all__ = ["ANY", "Admission"]

ANY = "*"
_KEY = re.compile(r"[0-9A-Za-z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}\Z")


@dataclass(slots=True)
class _Listed:
    """The key file, read: immutable after that, since another thread looks into it."""

    stamp: tuple[int, int, int]
    agents: dict[str, set[str]] = field(default_factory=dict)
    """Key → the agents that it may speak for; `*` where it is bound to the first one it comes with."""
    reserved: dict[str, set[str]] = field(default_factory=dict)
    """Agent → the keys that are listed for it by name."""


class Admission:
    """The list of keys, and the bindings of those that are listed with `*`.

    Such a key belongs, from then on, to the agent that it came with first, and that agent to it. Bindings are
    kept in a file; that of a key which is not listed with `*` any more is void.
    """

    def __init__(self, keys: Path | None, bindings: Path, report: Report) -> None:
        self._keys, self._file, self._report = keys, bindings, report
        self._listed = _Listed((0, 0, 0))
        self._bound: dict[str, str] = {}
        self._owner: dict[str, str] = {}
        self._unsaved: list[tuple[str, str]] = []
        self._complaint = ""

    def __len__(self) -> int:
        return len(self._listed.agents)

    @property
    def watching(self) -> bool:
        """Whether keys matter at all; without CURVE everybody is who he says he is."""
        return self._keys is not None

    def load(self) -> None:
        """Read both files; raises ConfigError."""
        if self._keys is None:
            return
        self._listed = _read_list(self._keys)
        self._read_bindings()

    def reload(self, *, anyway: bool = False) -> bool:
        """Read the list again if it has changed; True where it was. One that is wrong changes nothing."""
        if self._keys is None or (not anyway and _stamp(self._keys) == self._listed.stamp):
            return False
        try:
            self._listed = _read_list(self._keys)
        except ConfigError as error:
            if error.what != self._complaint:
                self._report.note(f"keys: {error.where}: {error.what}; the list from before stays in force")
            self._complaint = error.what
            return False
        self._complaint = ""
        self._report.note(f"keys: the list was read again, {len(self):,} keys are admitted")
        return True

    def admits(self, key: str) -> bool:
        """Whether that key may connect; asked by the thread that authenticates, too."""
        return key in self._listed.agents

    def admitted(self) -> Sequence[str]:
        """All keys that may connect."""
        return list(self._listed.agents)

    def refusal(self, key: str, agent: str) -> str:
        """Why that key may not speak for that agent; "" where it may. A binding begins with `save`."""
        if self._keys is None:
            return ""
        agents = self._listed.agents.get(key)
        if agents is None:
            return f"the key {key} is not in the aggregator's list"
        if agent in agents:
            return ""
        reserved = self._listed.reserved.get(agent, set()) - {key}
        if ANY not in agents or reserved:
            whose = f"the key {key} is not listed for agent {agent}"
            return whose + (", another one is" if reserved else "")
        bound = self._bound.get(key)
        if bound is not None:
            return (
                "" if bound == agent else f"the key {key} belongs to agent {bound}, with which it came first"
            )
        owner = self._owner.get(agent)
        if owner is not None and ANY in self._listed.agents.get(owner, ()):
            return f"agent {agent} belongs to the key {owner}, with which it came first"
        self._bound[key], self._owner[agent] = agent, key
        self._unsaved.append((key, agent))
        return ""

    def save(self) -> str:
        """Make new bindings durable; why that can't be done, or "". Before it no such agent is welcomed."""
        if not self._unsaved:
            return ""
        lines = "".join(f"{key} {agent}\n" for key, agent in self._unsaved)
        try:
            fd = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                # Whatever a crash left half-written ends here.
                os.write(fd, b"\n" + lines.encode())
                os.fsync(fd)
            finally:
                os.close(fd)
        except OSError as error:
            self._forget()
            reason = f"{self._file} can't be written: {error.strerror}"
            self._report.note(f"keys: {reason}; new agents are not admitted")
            return f"the aggregator can't remember this agent's key now: {error.strerror}"
        self._unsaved = []
        return ""

    def _forget(self) -> None:
        for key, agent in self._unsaved:
            self._bound.pop(key, None)
            self._owner.pop(agent, None)
        self._unsaved = []

    def _read_bindings(self) -> None:
        try:
            text = self._file.read_text()
        except FileNotFoundError:
            return
        except OSError as error:
            raise ConfigError(
                f"the keys that agents came with first can't be read: {error.strerror}",
                where=str(self._file),
                remedy="give the file to the user that the aggregator runs as",
            ) from None
        for line in text.splitlines():
            key, _, agent = line.partition(" ")
            if not _KEY.match(key) or not agent:
                continue  # half a line, from a crash: its agent was never welcomed
            # The latest counts: a binding that was void may have been made anew.
            self._owner.pop(self._bound.get(key, ""), None)
            self._bound[key], self._owner[agent] = agent, key


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        found = path.stat()
    except OSError:
        return (0, 0, 0)
    return found.st_mtime_ns, found.st_ino, found.st_size


def _read_list(path: Path) -> _Listed:
    """`PUBLICKEY AGENT-OR-* comment` per line; raises ConfigError naming the line."""
    remedy = "one line for each key: PUBLICKEY AGENT-ID, or * for the agent id; see docs/aggregator.md"
    listed = _Listed(_stamp(path))
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(
            f"the list of keys can't be read: {reason}", where=str(path), remedy=remedy
        ) from None
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or (words[0].startswith("#") and not _KEY.match(words[0])):
            continue
        if not _KEY.match(words[0]) or len(words) < 2 or len(words[1]) > 64:
            raise ConfigError("not a key and an agent", where=f"{path}:{number}", remedy=remedy)
        key, agent = words[:2]
        listed.agents.setdefault(key, set()).add(agent)
        if agent != ANY:
            listed.reserved.setdefault(agent, set()).add(key)
    return listed

"""One line of what the doctor says, and whom it is said for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from bpfleet.config import Config
from bpfleet.errors import ConfigError
from bpfleet.users import User

__all__ = ["Check", "Finding", "State", "Subject", "missing", "ok", "unseen", "warn"]


class State(str, Enum):
    """How things are. `missing`: without it `bpfleet run`, started as this process was, does not work."""

    OK = "ok"
    WARN = "warn"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found of one thing; `remedy` is what to do about it, empty where it is well.

    `looked` is False where it could not be looked at."""

    state: State
    what: str
    detail: str
    remedy: str = ""
    looked: bool = True
    area: str = ""


@dataclass(frozen=True, slots=True)
class Subject:
    """What is examined: this host, for this configuration, its worker's user and its state directory."""

    root: bool
    user: User
    """Where the configuration's can't be had (that is a finding of its own), the user it fell back to."""
    user_problem: Finding | None
    state: Path
    config_name: str
    config: Config | None
    config_problem: ConfigError | None


Check = Callable[[Subject], Iterable[Finding]]


def ok(what: str, detail: str) -> Finding:
    """It is there, and nothing is to be done."""
    return Finding(State.OK, what, detail)


def warn(what: str, detail: str, remedy: str) -> Finding:
    """It is not there, or costs something; the agent runs without."""
    return Finding(State.WARN, what, detail, remedy)


def missing(what: str, detail: str, remedy: str) -> Finding:
    """It is needed and not there."""
    return Finding(State.MISSING, what, detail, remedy)


def unseen(what: str, why: str, remedy: str = "run bpfleet doctor as root") -> Finding:
    """It could not be looked at."""
    return Finding(State.WARN, what, f"not looked at: {why}", remedy, looked=False)

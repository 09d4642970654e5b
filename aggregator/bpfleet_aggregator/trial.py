"""`bpfleet aggregate --check`: what would keep an aggregator from running, all of it, without running one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from bpfleet.errors import BpfleetError, PrivilegeError
from bpfleet.keys import read_pair
from bpfleet_aggregator.admission import Admission
from bpfleet_aggregator.config import Config
from bpfleet_aggregator.report import Report
from bpfleet_aggregator.user import user_to_become

__all__ = ["problems"]


def problems(config: Config) -> Iterator[BpfleetError]:
    """One error for each; nothing is bound, made or written."""
    settings = config.aggregator
    steps: list[Callable[[], object]] = [lambda: _place(Path(settings.state), settings.user)]
    if settings.encrypted:
        keys = Admission(Path(settings.keys), Path(settings.state) / "agents", Report())
        steps += [lambda: read_pair(Path(settings.key or "")), keys.load]
    steps.append(config.store_type)
    for step in steps:
        try:
            step()
        except BpfleetError as error:
            yield error


def _place(state: Path, configured: str | None) -> None:
    user = user_to_become(configured)
    nearest = next(one for one in (state, *state.parents) if one.exists())
    if not nearest.is_dir():
        raise PrivilegeError(
            "the state directory can't be made: there is something else",
            where=str(nearest),
            remedy="set [aggregator] state to a directory that can be made",
        )
    if nearest != state and user is not None:
        return  # root makes it
    found = nearest.stat()
    uid, gid = (user.uid, user.gid) if user else (os.geteuid(), os.getegid())
    bits = 0o300 if found.st_uid == uid else 0o030 if found.st_gid == gid else 0o003
    if uid and found.st_mode & bits != bits:
        name = user.name if user else f"uid {uid}"
        raise PrivilegeError(
            f"user {name} can't write to the state directory",
            where=str(nearest),
            remedy=f"chown {name} {nearest}, or set [aggregator] user or state",
        )

"""Who this agent is: a uuid that lasts, the host's name, the kernel's boot id."""

from __future__ import annotations

import platform
import uuid
from pathlib import Path

from bpfleet.errors import PrivilegeError
from bpfleet.wire import Origin

__all__ = ["facts", "origin"]


def origin(state: Path, run: int, *, user: str, keep: bool) -> Origin:
    """This agent's identity; the uuid is kept in `state`/agent-id (with `keep`; else one that is
    there is used).

    Raises PrivilegeError naming user and folder where it can't be kept.
    """
    facts_now = facts()
    return Origin(_agent_id(state / "agent-id", user, keep), facts_now["host"], facts_now["boot_id"], run)


def facts() -> dict[str, str]:
    """host, kernel, machine and boot_id."""
    return {
        "host": platform.node(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "boot_id": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
    }


def _agent_id(path: Path, user: str, keep: bool) -> str:
    try:
        return str(uuid.UUID(path.read_text().strip()))
    except (OSError, ValueError):
        made = str(uuid.uuid4())
    if keep:
        try:
            draft = path.with_suffix(".new")
            draft.write_text(made + "\n")
            draft.rename(path)
        except OSError as error:
            raise PrivilegeError(
                f"user {user!r} can't keep the agent's id: {error.strerror}",
                where=str(path.parent),
                remedy=f"chown {user} {path.parent}, or set [agent] state to a directory of {user}'s",
            ) from None
    return made

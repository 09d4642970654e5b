"""The agent's own surroundings: configuration, worker's user, its way to the code, state directory, id."""

from __future__ import annotations

import os
import pwd
import stat
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bpfleet import config
from bpfleet.doctor.child import ChildFailed, in_child, run_command
from bpfleet.doctor.finding import Finding, Subject, missing, ok, unseen, warn
from bpfleet.errors import BpfleetError, ConfigError
from bpfleet.supervisor.confinement import barred, needed_paths, open_the_way
from bpfleet.supervisor.privileges import drop_to, worker_user
from bpfleet.users import User

__all__ = ["as_worker", "configuration", "subject_of", "worker"]


def subject_of(path: Path | None) -> Subject:
    """What `bpfleet run --config PATH` would run with; what can't be had becomes a finding, not an error."""
    parsed: config.Config | None = None
    problem: ConfigError | None = None
    name = str(path) if path else "built-in default"
    try:
        text, name = config.read(path)
        parsed = config.parse(text, name)
    except ConfigError as error:
        problem = error
    settings = parsed.agent if parsed else config.AgentSettings()
    root = os.geteuid() == 0
    user, user_problem = _user(settings.user, root)
    state = Path(settings.state).absolute()
    return Subject(root, user, user_problem, state, name, parsed, problem)


def _user(configured: str | None, root: bool) -> tuple[User, Finding | None]:
    if root:
        try:
            return worker_user(configured), None
        except BpfleetError as error:
            return _NOBODY, missing("worker's user", f"{error.what} ({error.where})", error.remedy)
    for name in [configured] if configured else ["bpfleet", "nobody"]:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return User(name, entry.pw_uid, entry.pw_gid), None
    what = f"there is no user {configured or 'nobody'!r} on this host"
    return _NOBODY, missing(
        "worker's user", what, "useradd --system --no-create-home bpfleet, or set [agent] user"
    )


_NOBODY = User("nobody", 65534, 65534)
_AGAIN = "run it again when the host is less busy"


def configuration(subject: Subject) -> Iterator[Finding]:
    """Whether it is found and can be read; what plugins make of it is `bpfleet check`'s to say."""
    error, found = subject.config_problem, subject.config
    if error is not None:
        yield missing("configuration", f"{error.what} ({error.where})", error.remedy)
        return
    assert found is not None
    if not found.collectors:
        remedy = "add a table such as [collectors.execve]; bpfleet plugins lists what there is"
        yield missing("configuration", f"{found.path} enables no collector", remedy)
        return
    told = f"collectors {', '.join(found.collectors)}; sinks {', '.join(found.sinks) or 'none'}"
    if found.sinks:
        yield ok("configuration", f"{found.path}: {told}")
    else:
        remedy = "add a table such as [sinks.stdout]; bpfleet plugins lists what there is"
        yield warn("configuration", f"{found.path}: {told}: records go nowhere", remedy)


def worker(subject: Subject) -> Iterator[Finding]:
    """Whom the worker runs as."""
    if subject.user_problem is not None:
        yield subject.user_problem
    elif subject.user.name == "nobody":
        yield warn(
            "worker's user",
            "nobody, whom other services may run as too: they could read what the agent keeps, such as keys",
            "useradd --system --no-create-home bpfleet; it is taken by itself where it exists",
        )
    else:
        yield ok("worker's user", f"{subject.user.name}, uid {subject.user.uid}")


def as_worker(subject: Subject) -> Iterator[Finding]:
    """Become that user, as the supervisor does, and try: import the agent, use the state directory."""
    if not subject.root:
        yield unseen("code", "only root can become the worker's user to try")
        yield unseen("state directory", f"{subject.state}: only root can become the worker's user to try")
        return
    if subject.user_problem is not None:
        yield unseen("code", "there is no user to try as", "see the worker's user")
        yield unseen("state directory", "there is no user to try as", "see the worker's user")
        return
    user, state = subject.user, subject.state
    behind = barred(needed_paths(state), user)

    def try_it() -> dict[str, Any]:
        try:
            open_the_way(behind)
            # The supervisor keeps CAP_BPF on old kernels; it makes no difference to files.
            drop_to(user, keep_bpf=False)
        except OSError as error:
            return {"failure": f"can't become the worker: {error.strerror}"}
        return {"failure": "", "code": _import_agent(), "state": _use(state), "id": _agent_id(state)}

    try:
        tried = in_child(try_it, seconds=50)
    except ChildFailed as error:
        yield unseen("code", str(error), _AGAIN)
        return
    if tried["failure"]:
        yield missing(
            "code", tried["failure"], "run as root, with CAP_SYS_ADMIN, CAP_SETUID, CAP_SETGID, CAP_SETPCAP"
        )
        return
    refused, unknown = tried["code"]
    yield unseen("code", unknown, _AGAIN) if unknown else _code(user, refused, behind)
    if not state.exists():
        yield _to_be_made(user, state)
        return
    yield _state(user, state, tried["state"])
    if tried["id"]:
        kind, detail = tried["id"]
        remedy = f"chown {user.name} {state / 'agent-id'}, or remove the file: then another id is made"
        yield ok("agent id", detail) if kind == "ok" else warn("agent id", detail, remedy)


def _code(user: User, refused: str, behind: dict[Path, list[Path]]) -> Finding:
    if refused:
        remedy = "install bpfleet where every user may read it, such as a venv in /opt/bpfleet"
        return missing("code", f"user {user.name} can't run the worker: {refused}", remedy)
    if behind:
        bars = ", ".join(f"{bar} ({stat.filemode(bar.stat().st_mode)})" for bar in behind)
        detail = f"user {user.name} reaches it by mounts of the worker's own, past {bars}"
        return ok("code", f"{detail}; it can import all that the worker needs")
    return ok("code", f"user {user.name} can import all that the worker needs")


def _import_agent() -> tuple[str, str]:
    """In the child: (what keeps it from running, why that can't be told); both empty where it runs."""
    command = [sys.executable, "-P", "-c", "import bpfleet.worker.startup, bpfleet.worker.tick"]
    try:
        done = run_command(command, seconds=40)
    except OSError as error:
        return f"{sys.executable}: {error.strerror}", ""
    except ChildFailed as error:
        return "", str(error)
    lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    return (lines[-1] if done.returncode else ""), ""


def _use(state: Path) -> str:
    """In the child: "" or what is wrong."""
    try:
        if not state.is_dir():
            return "it is no directory"
    except OSError as error:
        return error.strerror or str(error)
    return "" if os.access(state, os.R_OK | os.W_OK | os.X_OK) else "it may not read and write there"


def _state(user: User, state: Path, problem: str) -> Finding:
    what = "state directory"
    if not problem:
        return ok(what, f"{state}: user {user.name} may write there")
    remedy = f"chown {user.name} {state}, or set [agent] state to a directory of {user.name}'s"
    return missing(what, f"{state}, as user {user.name}: {problem}", remedy)


def _to_be_made(user: User, state: Path) -> Finding:
    """The supervisor makes it, as root; whether that will work is tried with another name beside it."""
    what = "state directory"
    parent = next(one for one in state.parents if one.exists())
    try:
        tried = tempfile.mkdtemp(prefix=".bpfleet-doctor-", dir=parent)
        try:
            os.chown(tried, user.uid, user.gid)
        finally:
            os.rmdir(tried)
    except OSError as error:
        remedy = "set [agent] state to a directory that can be made"
        return missing(what, f"{state} can't be made in {parent}: {error.strerror}", remedy)
    return ok(what, f"{state} will be made for user {user.name} at the first start")


def _agent_id(state: Path) -> tuple[str, str] | None:
    """In the child: ("ok" or "warn", what it says); None where that is the state directory's to tell."""
    place = state / "agent-id"
    try:
        return "ok", f"{uuid.UUID(place.read_text().strip())}"
    except FileNotFoundError:
        return ("ok", "none yet: it is made at the first start") if state.is_dir() else None
    except NotADirectoryError:
        return None
    except ValueError:
        return "warn", f"{place} holds no id; another is made at the next start"
    except OSError as error:
        return "warn", f"{place} can't be read: {error.strerror}"

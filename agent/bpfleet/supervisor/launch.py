"""Starting the worker and the loaders: fork, arrange, exec."""

from __future__ import annotations

import os
import platform
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bpfleet.errors import PrivilegeError
from bpfleet.ipc import Channel
from bpfleet.supervisor.confinement import barred, needed_paths, open_the_way, unreadable
from bpfleet.supervisor.privileges import die_with_parent, drop_to
from bpfleet.users import User

__all__ = ["Child", "ending", "start_loader", "start_worker"]

# One thread of one library more is memory that nobody uses; two arenas serve the sinks' threads.
_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}


@dataclass(frozen=True, slots=True)
class Child:
    """A process that we started: its pid, a pidfd that becomes readable when it ends, the channel to it."""

    pid: int
    pidfd: int
    channel: Channel

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send it a signal, if it is still there."""
        signal.pidfd_send_signal(self.pidfd, number)

    def reap(self) -> int:
        """Its exit code (negative: the signal) once it has ended."""
        _, status = os.waitpid(self.pid, 0)
        self.channel.close()
        os.close(self.pidfd)
        return os.waitstatus_to_exitcode(status)


def start_worker(user: User, *reached: Path) -> Child:
    """The worker, without privileges; it can reach the code, and the paths `reached`: its state, for one.

    Raises PrivilegeError where its user may not read the code.
    """
    for folder in unreadable(user):
        raise PrivilegeError(
            f"the worker's user {user.name} may not read the code",
            where=str(folder),
            remedy=f"chmod go+rx {folder}",
        )
    behind = barred(needed_paths(*reached), user)

    def give_up_privileges() -> None:
        open_the_way(behind)
        drop_to(user, keep_bpf=_needs_cap_bpf(platform.release()))
        die_with_parent(signal.SIGTERM)
        os.chdir("/")

    return _start("bpfleet.worker", give_up_privileges)


def start_loader() -> Child:
    """A loader, as root."""
    return _start("bpfleet.loader", lambda: die_with_parent(signal.SIGKILL))


def ending(status: int) -> str:
    """How a process ended, in words, from what `Child.reap` gave."""
    if status >= 0:
        return f"exit code {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"


def _needs_cap_bpf(release: str) -> bool:
    """Before 6.0 the kernel refuses map reads by fd to a process without CAP_BPF."""
    major = release.partition(".")[0]
    return major.isdigit() and int(major) < 6


def _start(module: str, arrange: Callable[[], None]) -> Child:
    channel, theirs = Channel.pair()
    pid = os.fork()
    if pid == 0:
        _become(module, theirs, arrange)
    theirs.close()
    return Child(pid, os.pidfd_open(pid), channel)


def _become(module: str, theirs: socket.socket, arrange: Callable[[], None]) -> None:
    """In the child: never returns."""
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        os.set_inheritable(theirs.fileno(), True)
        arrange()
        environment = {**os.environ, **_ENVIRONMENT}
        # -P: nothing is imported from the current directory.
        os.execve(sys.executable, [sys.executable, "-P", "-m", module, str(theirs.fileno())], environment)
    except BaseException as error:
        os.write(2, f"bpfleet: {module} can't be started: {error}\n".encode())
    finally:
        os._exit(70)

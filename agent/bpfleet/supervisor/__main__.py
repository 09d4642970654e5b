"""The supervisor process: starts the worker, has collectors loaded for it, holds their fds, starts it again.

Run by `bpfleet run` and `bpfleet once`, which exec it with one JSON argument (`Boot`).
"""

from __future__ import annotations

import json
import os
import resource
import selectors
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bpfleet.errors import BpfleetError, ConfigError, LoadError
from bpfleet.ipc import ChannelClosed, close_all
from bpfleet.kernel import boottime_ns
from bpfleet.supervisor.control_socket import ControlSocket
from bpfleet.supervisor.holdings import Holdings
from bpfleet.supervisor.inner_maps import open_inner
from bpfleet.supervisor.launch import Child, ending, start_worker
from bpfleet.supervisor.loading import Job, Loaders, failed
from bpfleet.supervisor.privileges import require_capabilities, worker_user
from bpfleet.supervisor.rescans import Rescans
from bpfleet.supervisor.signals import signals
from bpfleet.users import User, make_state_directory

LEDGER_BYTES = 4096
_DONE, _CONFIGURATION_ENDED_IT = 0, 2
_FALSE_STARTS = 3


@dataclass(frozen=True)
class Boot:
    """What the command line says."""

    config: str | None
    """The configuration's path; None where `default` is all there is."""
    default: str
    user: str | None
    state: str
    options: dict[str, Any]
    """For the worker: mode, duration, collectors, …"""
    reads: tuple[str, ...] = ()
    """What the worker must be able to read besides the code."""
    drain: float = 10.0
    """Seconds that the worker may take to end."""
    control: str = ""
    """The control socket's path; empty: none."""
    control_group: str | None = None


class Supervisor:
    """The loop. One worker at a time; a few loaders at once; everything else waits."""

    def __init__(self, boot: Boot, user: User, control: ControlSocket) -> None:
        self.boot, self.user, self.control = boot, user, control
        self.run = boottime_ns()
        self.holdings = Holdings()
        self.selector = selectors.DefaultSelector()
        self.ledger = os.memfd_create("bpfleet-ledger", os.MFD_CLOEXEC)
        os.truncate(self.ledger, LEDGER_BYTES)
        self.worker: Child | None = None
        self.sealed = self.stopping = self.reloading = False
        self.reloaded = False  # until the first worker since a reload has sealed: it undoes changes by hand
        self.kill_at = float("inf")
        self.start_at = 0.0
        self.pause = 0.0
        self.started = 0.0
        self.loaders = Loaders(self.holdings, self.selector, self._send)
        self.rescans = Rescans(self.holdings, self.loaders.ask)
        self.config = ""
        self.good_config: str | None = None
        self.fall_back = False
        self.false_starts = 0

    def main(self) -> int:
        """Run until the worker has ended for good; returns the exit code."""
        wakeup = signals()
        self.selector.register(wakeup, selectors.EVENT_READ)
        while True:
            now = time.monotonic()
            if self.worker is None and now >= self.start_at:
                self._start_worker()
            if self.sealed:
                self.rescans.start_due()
            self.loaders.start()
            for key, _ in self.selector.select(self._patience(now)):
                if key.fileobj is wakeup:
                    for number in wakeup.recv(64):
                        self._signal(number)
                elif isinstance(key.data, Job):
                    self.loaders.take_answer(key.data)
                elif key.data == "channel":
                    self._request_from_worker()
                else:
                    status = self._worker_ended()
                    if status is not None:
                        self.loaders.end()
                        return status
            self._enforce_deadlines()

    # ---- the worker

    def _start_worker(self) -> None:
        self.sealed = False
        self.started = time.monotonic()
        self.config = self._read_config()
        self.worker = worker = start_worker(self.user, Path(self.boot.state), *map(Path, self.boot.reads))
        message = {
            "op": "start",
            "config_path": self.boot.config or "built-in default",
            "config_text": self.config,
            "options": self.boot.options,
            "state": self.boot.state,
            "user": self.user.name,
            "run": self.run,
            "reloaded": self.reloaded,
            "control_gid": self.control.gid,
        }
        fds = [self.ledger] + ([self.control.listener.fileno()] if self.control.listener else [])
        self.selector.register(worker.pidfd, selectors.EVENT_READ, "pidfd")
        self.selector.register(worker.channel, selectors.EVENT_READ, "channel")
        # Where it has ended already, its pidfd says so.
        with suppress(ChannelClosed):
            worker.channel.send(message, fds)

    def _worker_ended(self) -> int | None:
        """What to exit with; None where another worker follows."""
        worker = self.worker
        assert worker is not None
        self.selector.unregister(worker.pidfd)
        self._drop_channel()
        status = worker.reap()
        self.worker, self.kill_at = None, float("inf")
        self.loaders.forget_waiting()
        if self.reloading and not self.stopping:
            self.reloading, self.reloaded = False, True
            self.start_at = 0.0
            return None
        if self.stopping or status == _DONE or self.boot.options["mode"] != "run":
            return status if status >= 0 else 1
        if status == _CONFIGURATION_ENDED_IT:
            if self.good_config is None or self.config == self.good_config:
                return status
            _say("the new configuration is not used; going on with the one before")
            self.fall_back, self.reloaded = True, False
            return None
        self.false_starts += 1
        if self.good_config is None and self.false_starts == _FALSE_STARTS:
            _say(f"the worker ended ({ending(status)}) {_FALSE_STARTS} times before it was ready; giving up")
            return 1
        # A worker that ran for a while starts again at once; one that keeps dying, ever more slowly.
        lived = time.monotonic() - self.started
        self.pause = 0.0 if lived > 10 else min(30.0, self.pause * 2 or 0.5)
        self.start_at = time.monotonic() + self.pause
        _say(f"the worker ended ({ending(status)}); starting another, counters go on")
        return None

    def _read_config(self) -> str:
        if self.fall_back and self.good_config is not None:
            self.fall_back = False
            return self.good_config
        if self.boot.config is None:
            return self.boot.default
        try:
            return Path(self.boot.config).read_text()
        except (OSError, UnicodeDecodeError) as error:
            if self.good_config is None:
                raise ConfigError(
                    f"the configuration can't be read: {error}",
                    where=self.boot.config,
                    remedy="give an existing file with --config",
                ) from None
            _say(f"the configuration can't be read ({error}); going on with the one before")
            return self.good_config

    def _request_from_worker(self) -> None:
        assert self.worker is not None
        try:
            message, fds = self.worker.channel.receive()
        except ChannelClosed:
            self._drop_channel()
            return
        close_all(fds)
        try:
            self._obey(message)
        except (KeyError, TypeError, ValueError) as error:
            # A worker that speaks nonsense is not one of ours any more; what runs in it can't harm us.
            _say(f"the worker sent a message that makes no sense ({error!r}) and is replaced")
            self.worker.kill()

    def _obey(self, message: dict[str, Any]) -> None:
        operation = message["op"]
        if operation == "seal":
            self.sealed, self.reloaded = True, False
            self.good_config, self.false_starts = self.config, 0
            self.holdings.keep_only([str(name) for name in message["collectors"]])
        elif operation == "load":
            self._load(message)
        elif operation == "changed":
            self.holdings.keep_changes(message["collector"], message["changes"])
        elif operation == "inner":
            answer, fds = open_inner(self.holdings, message)
            self._send(answer, fds)
            close_all(fds)
        elif operation == "grow":
            message = {"op": "grow", **{key: message[key] for key in ("collector", "map", "rows")}}
            self.loaders.ask(message)
        else:
            raise ValueError(f"there is no operation {operation!r}")

    def _load(self, request: dict[str, Any]) -> None:
        found = self.holdings.find(request)
        if found is not None:
            self._send(*found)
        elif self.sealed:
            error = LoadError(
                "the worker asked for a program after it was sealed",
                where=f"collector {request['collector']!r}",
                remedy="reload with SIGHUP to load what is new",
            )
            self._send(failed(request, error), [])
        else:
            self.loaders.ask(request)

    def _enforce_deadlines(self) -> None:
        self.loaders.enforce_deadlines()
        if self.worker is not None and time.monotonic() > self.kill_at:
            self.kill_at = float("inf")
            _say("the worker did not end in time and is killed")
            self.worker.kill()

    def _patience(self, now: float) -> float | None:
        moments = [self.loaders.deadline, self.kill_at]
        if self.worker is None:
            moments.append(self.start_at)
        elif self.sealed:
            moments.append(self.rescans.deadline)
        nearest = min(moments)
        return None if nearest == float("inf") else max(0.0, nearest - now) + 0.001

    # ---- small things

    def _signal(self, number: int) -> None:
        if self.worker is None:
            if number in (signal.SIGTERM, signal.SIGINT):
                sys.exit(0)
            return
        if number == signal.SIGHUP:
            self.reloading = True
        elif number in (signal.SIGTERM, signal.SIGINT):
            self.stopping = True
        else:
            return
        self.worker.kill(signal.SIGTERM)
        self.kill_at = time.monotonic() + self.boot.drain

    def _send(self, message: dict[str, Any], fds: list[int]) -> None:
        if self.worker is not None:
            # Where it has ended, the next one asks again.
            with suppress(ChannelClosed):
                self.worker.channel.send(message, fds)

    def _drop_channel(self) -> None:
        assert self.worker is not None
        if self.worker.channel in [key.fileobj for key in self.selector.get_map().values()]:
            self.selector.unregister(self.worker.channel)


def _say(text: str) -> None:
    print(f"bpfleet: {text}", file=sys.stderr, flush=True)


def main() -> int:
    boot = Boot(**json.loads(sys.argv[1]))
    try:
        user = worker_user(boot.user)
        require_capabilities()
        make_state_directory(Path(boot.state), user, table="agent", mode=0o755)
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        control = ControlSocket(boot.control, boot.control_group, _say)
        try:
            return Supervisor(boot, user, control).main()
        finally:
            control.close()
    except BpfleetError as error:
        _say(str(error))
        return 2 if isinstance(error, ConfigError) else 1


if __name__ == "__main__":
    sys.exit(main())

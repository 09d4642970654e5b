"""The worker process: make ready, seal, tick until told to stop, drain."""

from __future__ import annotations

import logging
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bpfleet.config import Config, parse
from bpfleet.draining.drainer import Drainer
from bpfleet.errors import BpfleetError, ConfigError, ReadError
from bpfleet.identity import origin as identity
from bpfleet.ipc import Channel, ChannelClosed
from bpfleet.kernel import boottime_ns
from bpfleet.plugins import State
from bpfleet.protocol import Grow, plain
from bpfleet.reading.ladder import WalkFds
from bpfleet.wire import Origin, Status, encode_status
from bpfleet.worker import status
from bpfleet.worker.collecting import RunningCollector
from bpfleet.worker.control_socket import ControlSocket
from bpfleet.worker.delivery import Delivery
from bpfleet.worker.early_drains import EarlyDrains
from bpfleet.worker.inner_maps import InnerMapOpener
from bpfleet.worker.ledger import Ledger
from bpfleet.worker.memory import give_back
from bpfleet.worker.requests import Requests
from bpfleet.worker.startup import Startup, Stopped
from bpfleet.worker.tick import tick

log = logging.getLogger("bpfleet")


class Worker:
    """Everything that runs, and the loop over it."""

    def __init__(
        self, start: dict[str, Any], ledger: Ledger, channel: Channel, control: int | None = None
    ) -> None:
        self.control, self.control_gid = control, start["control_gid"]
        self.options = start["options"]
        self.channel, self.ledger, self.run_id = channel, ledger, start["run"]
        self.once = self.options["mode"] == "once"
        self.tracing = self.options["mode"] == "trace"
        if self.once:
            # `once | head`: that the reader has gone is no news.
            logging.getLogger("bpfleet.sink").setLevel(logging.ERROR)
        self.config = _configuration(start)
        state = Path(start["state"])
        self.origin: Origin = identity(state, start["run"], user=start["user"], keep=not self.once)
        self.changed = threading.Event()
        self.wakeup = _wakeup_on_signals()
        startup = Startup(
            self.config, channel, start["user"], state, wakeup=self.wakeup, reloaded=start["reloaded"]
        )
        self.absent = startup.absent
        self.sinks: list[Delivery] = startup.sinks(self.origin, ledger, self.changed.set)
        self.labels = startup.labels()
        self.collectors: list[RunningCollector] = startup.collectors()
        InnerMapOpener(channel, self._take).serve(self.collectors)
        if not self.tracing:
            self._tell_of_idleness()

    def main(self) -> int:
        """Tick until the time is over or somebody says stop; returns the exit code."""
        if not (self.once or self.tracing):
            self._send_status()
        if self.collectors or not (self.once or self.tracing):
            self._loop()
            self._last_events()
        left = self._drain()
        if not (self.once or self.tracing):
            return 0
        errors = [one.error for one in self.absent if one.error is not None]
        if any(isinstance(error, ConfigError) for error in errors):
            return 2
        return 1 if left or errors else 0

    def _tell_of_idleness(self) -> None:
        for kind, there in (("collector", self.collectors), ("sink", self.sinks)):
            if not there:
                log.warning(
                    "no %s runs, so no record is %s; [%ss.NAME] tables in %s enable them",
                    kind,
                    "made" if kind == "collector" else "kept",
                    kind,
                    self.config.path,
                )

    def _loop(self) -> None:
        began = time.monotonic()
        end = began + (self.options.get("duration") or float("inf"))
        first = self.options["after"] if self.once else 0.0
        # `trace` only keeps programs where they are.
        due = {} if self.tracing else {one.name: began + first for one in self.collectors}
        status_due = began + self.config.agent.status_interval
        poll = select.poll()
        poll.register(self.channel, select.POLLIN)
        poll.register(self.wakeup, select.POLLIN)
        control = self._open_control(poll)
        drains = EarlyDrains(self.collectors, poll)
        while True:
            drains.run()
            now = time.monotonic()
            for one in self.collectors:
                if now >= due.get(one.name, end):
                    self._tick(one)
                    # On the grid of its interval; ticks that could not be made are left out, not made up for.
                    missed = (time.monotonic() - due[one.name]) // one.interval
                    due[one.name] += (missed + 1) * one.interval
            if self.once and now >= began + first:
                return
            if self.changed.is_set() or now >= status_due:
                self.changed.clear()
                self._send_status()
                status_due = now + self.config.agent.status_interval
            if now >= end or (self.sinks and all(sink.gone for sink in self.sinks)):
                return
            following = min([*due.values(), status_due, end, drains.due])
            if control is not None:
                control.drop_idle()
                following = min(following, control.deadline)
            for fd, _ in poll.poll(max(0.0, following - time.monotonic()) * 1000 + 1):
                if drains.woken(fd):
                    continue
                if control is not None and control.owns(fd):
                    control.ready(fd)
                elif fd == self.wakeup.fileno() or not self._message():
                    return

    def _open_control(self, poll: select.poll) -> ControlSocket | None:
        if self.control is None:
            return None
        requests = Requests(self.collectors, self.absent, self._body, self.changed.set)
        return ControlSocket(self.control, self.control_gid, poll, requests.answer, requests.refusal)

    def _body(self) -> dict[str, Any]:
        return status.body(self.run_id, self.collectors, self.sinks, self.absent, self.labels)

    def _tick(self, one: RunningCollector) -> None:
        if time.monotonic() < one.retry_at:
            return
        try:
            tick(one, self.origin, self.ledger, self.sinks, self.config.agent.frame_size)
        except ReadError as error:
            one.failures += 1
            one.retry_at = time.monotonic() + min(300.0, one.interval * 2**one.failures)
            one.state = State.QUARANTINED
            one.error = error
            log.error("collector %r: %s", one.name, one.error)
            self.changed.set()
            return
        if one.state is State.QUARANTINED:
            one.state, one.error, one.failures = State.RUNNING, None, 0
            self.changed.set()
        self._ask_for_room(one)

    def _last_events(self) -> None:
        """What was taken out of a map since its last snapshot would be lost with us."""
        for one in self.collectors:
            if not self.once and any(isinstance(each.reader, Drainer) for each in one.maps):
                self._tick(one)

    def _ask_for_room(self, one: RunningCollector) -> None:
        """Larger row buffers are made by a loader; meanwhile the map is read in batches."""
        for running in one.maps:
            if running.reader.wanted_rows and not running.growing and not self.once:
                running.growing = True
                request = Grow(collector=one.name, map=running.name, rows=running.reader.wanted_rows)
                self.channel.send(plain(request))

    def _message(self) -> bool:
        """Take what the supervisor says; False when it has gone."""
        try:
            message, fds = self.channel.receive()
        except ChannelClosed:
            return False
        self._take(message, fds)
        return True

    def _take(self, message: dict[str, Any], fds: list[int]) -> None:
        if message["op"] == "failed":
            log.error("%s", BpfleetError.from_plain(message["error"]))
        for one in self.collectors:
            if message["op"] == "attached" and one.name == message["collector"]:
                one.now_attached(message["attached"])
                for error in message["errors"]:
                    log.warning("collector %r: %s", one.name, error)
                self.changed.set()
            if message["op"] == "grown" and one.name == message["collector"]:
                program, rows, counters = fds
                one.fds += fds
                one.use_larger_buffer(message["map"], WalkFds(program, rows, counters, message["capacity"]))

    def _send_status(self) -> None:
        seq = self.ledger.next_seq
        record = Status(
            origin=self.origin,
            seq=seq,
            t1=boottime_ns(),
            wall_offset=time.time_ns() - boottime_ns(),
            body=self._body(),
        )
        frame = encode_status(record)
        self.ledger.used(seq)
        for sink in self.sinks:
            sink.offer(frame)
        give_back()

    def _drain(self) -> int:
        """Let the sinks deliver what waits; returns the records that they could not."""
        deadline = time.monotonic() + self.config.agent.drain
        left = 0
        for sink in self.sinks:
            sink.begin_to_stop(deadline)
        for sink in self.sinks:
            undelivered = sink.stop(deadline)
            left += undelivered
            if undelivered:
                log.error(
                    "sink %r: %d records were not delivered before the end%s",
                    sink.name,
                    undelivered,
                    f": {sink.error}" if sink.error else "",
                )
        return left


def _configuration(start: dict[str, Any]) -> Config:
    config = parse(start["config_text"], start["config_path"])
    options = start["options"]
    if options["mode"] not in ("once", "trace"):
        return config
    wanted: Sequence[str] = options["collectors"]
    named = wanted or list(config.collectors)
    return replace(
        config,
        collectors={name: dict(config.collectors.get(name, {})) | {"enabled": True} for name in named},
        from_command_line=[name for name in named if name not in config.collectors],
        only=wanted or None,
        sinks={"stdout": {"format": options["format"]}} if options["mode"] == "once" else {},
    )


def _try_out(start: dict[str, Any], channel: Channel) -> int:
    from bpfleet import checking

    logging.disable()
    options = start["options"]
    startup = Startup(_configuration(start), channel, start["user"], Path(start["state"]))
    if options["mode"] == "plugins":
        return checking.report(checking.list_plugins(startup), options["format"])
    return checking.report(checking.check(startup, load=options["load"]), options["format"])


def _wakeup_on_signals() -> socket.socket:
    """A socket that becomes readable on SIGTERM. Ctrl-C is the supervisor's to handle."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    signal.set_wakeup_fd(theirs.detach())
    return ours


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="bpfleet: %(message)s", stream=sys.stderr)
    channel = Channel(socket.socket(fileno=int(sys.argv[1])))
    try:
        start, (ledger, *control) = channel.receive()
        if start["options"]["mode"] in ("check", "plugins"):
            return _try_out(start, channel)
        return Worker(start, Ledger(ledger), channel, *control).main()
    except BpfleetError as error:
        # Nothing runs yet: what is wrong is the configuration, or a place that it names.
        log.error("%s", error)
        return 2
    except Stopped:
        return 0
    except ChannelClosed:
        return 1


if __name__ == "__main__":
    sys.exit(main())

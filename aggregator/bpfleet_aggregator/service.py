"""The aggregator as a process: what starts in which order, signals, and the end."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType

import zmq

from bpfleet.errors import StoreError
from bpfleet.keys import read_pair
from bpfleet.stores import Store, StoreContext
from bpfleet.users import make_state_directory
from bpfleet_aggregator.admission import Admission
from bpfleet_aggregator.aggregate import Aggregator
from bpfleet_aggregator.committer import Committer
from bpfleet_aggregator.config import Config
from bpfleet_aggregator.report import Report
from bpfleet_aggregator.router import Router, raise_open_files
from bpfleet_aggregator.shards import Receiver, Shards
from bpfleet_aggregator.user import become, collect_seldom, user_to_become
from bpfleet_aggregator.zap import Gatekeeper

__all__ = ["Service"]

_BINDINGS = "agents"
_LOOK_AT_KEYS = 2.0


class Service:
    """Listens, gives up root, opens the store: in this order. Raises ConfigError and its like."""

    def __init__(self, config: Config) -> None:
        settings = config.aggregator
        self._settings, self._report = settings, Report()
        self._signals: set[int] = set()
        raise_open_files()
        user = user_to_become(settings.user)
        make_state_directory(Path(settings.state), user, table="aggregator", mode=0o750)
        state = Path(settings.state).resolve()
        secret = read_pair(Path(settings.key or "")).secret if settings.encrypted else ""
        self._admission = Admission(Path(settings.keys) if secret else None, state / _BINDINGS, self._report)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=settings.io_threads)
        self._gatekeeper: Gatekeeper | None = None
        self._router: Receiver = (
            Router(self._context, window=settings.window, max_size=settings.max_size)
            if settings.shards == 1
            else Shards(settings, self._context, self._admission.admitted, self._report)
        )
        try:
            if secret:
                # While we are root: whoever connects at once is to find the list read.
                self._admission.load()
                if settings.shards == 1:
                    self._gatekeeper = Gatekeeper(self._context, self._admission.admits, self._report)
                self._router.encrypt(secret)
            self._router.bind(settings.bind)
            if user is not None:
                become(user, state)
            # Again, as the user that will have to read it after each change.
            self._admission.load()
            self._committer = Committer(
                _opened(config, state, self._report),
                self._report,
                interval=settings.commit_interval,
                size=settings.commit_size,
            )
        except BaseException:
            self._close()
            raise
        self._aggregator = Aggregator(settings, self._router, self._committer, self._admission, self._report)
        keys = f"{len(self._admission):,} keys admitted" if secret else "without keys"
        where = ", ".join(self._router.endpoints)
        self._report.note(f"listening on {where}; store {config.store}; {keys}")
        if secret:
            self._report.note(f"public key {zmq.curve_public(secret.encode()).decode()}")
        self._ends: float | None = None
        self._looked = self._told = time.monotonic()
        self._told_records = 0

    def run(self, duration: float | None) -> None:
        """Serve until SIGTERM, SIGINT or the end of `duration` seconds."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        collect_seldom()
        self._ends = None if duration is None else time.monotonic() + duration
        self._committer.start()
        try:
            self._router.start()
            self._aggregator.run(self._stopping, self._now_and_then)
        finally:
            self._end()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signals.add(number)

    def _stopping(self) -> bool:
        for part in (self._committer, self._gatekeeper):
            if part is not None and part.failed is not None:
                raise part.failed
        over = self._ends is not None and time.monotonic() >= self._ends
        return over or bool(self._signals & {signal.SIGTERM, signal.SIGINT})

    def _now_and_then(self) -> None:
        now = time.monotonic()
        if signal.SIGHUP in self._signals or now - self._looked >= _LOOK_AT_KEYS:
            if self._admission.reload(anyway=signal.SIGHUP in self._signals):
                self._router.keys_changed()
                self._aggregator.keys_changed()
            self._signals.discard(signal.SIGHUP)
            self._looked = now
        if now - self._told >= 1:
            self._report.catch_up()
            self._report.progress(self._progress(now - self._told))
            self._told, self._told_records = now, self._aggregator.counts.records

    def _progress(self, seconds: float) -> str:
        sessions, counts = self._aggregator.sessions, self._aggregator.counts
        rate = (counts.records - self._told_records) / seconds
        waiting = self._aggregator.in_flight / (1 << 20)
        text = f"{sessions.agents:,} agents  {rate:,.0f} records/s  {waiting:,.1f} MiB waiting"
        return text + (f"  {counts.refused:,} refused" if counts.refused else "")

    def _end(self) -> None:
        """Store what was received, say so, say BYE."""
        self._committer.end()
        deadline = time.monotonic() + self._settings.drain
        stored = False
        while not stored and time.monotonic() < deadline:
            stored = self._committer.join(0.02)
            self._aggregator.answer()
        self._aggregator.answer()
        self._aggregator.end("the aggregator ends")
        self._report.catch_up(everything=True)
        counts = self._aggregator.counts
        schemas = f", {counts.over_budget:,} of them for their schema" if counts.over_budget else ""
        self._report.note(f"ended: {counts.records:,} records stored, {counts.refused:,} refused{schemas}")
        self._close()
        if not stored:
            self._report.note("what is not stored yet was not acknowledged: agents send it again")
            sys.stderr.flush()
            # A store that does not come back would keep the process from ending.
            os._exit(0)

    def _close(self) -> None:
        self._router.close()
        if self._gatekeeper is not None:
            self._gatekeeper.stop()
        self._context.term()


def _opened(config: Config, state: Path, report: Report) -> Store:
    kind, settings = config.store_type()
    context = StoreContext(config.store, state, lambda message: report.note(f"store: {message}"))
    try:
        store: Store = kind.open(settings, context)
    except StoreError as error:
        error.where = error.where or f"{config.path}: [store.{config.store}]"
        raise
    return store

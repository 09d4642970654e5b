"""The thread that delivers a spool: session after session, until all is confirmed and the agent ends."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable

import zmq

from bpfleet import SinkContext, SinkError
from bpfleet.keys import KeyPair
from bpfleet_plugins.sinks.endpoints import Endpoints
from bpfleet_plugins.sinks.spool import Item, Spool
from bpfleet_plugins.sinks.zmq_session import Session, SessionOver, Terms
from bpfleet_plugins.sinks.zmq_settings import ZmqSettings
from bpfleet_plugins.sinks.zmq_socket import Connection

__all__ = ["Sender"]

log = logging.getLogger("bpfleet.sink.zmq")

_ATTEMPTS = 3
_TEND_EVERY = 1.0
_LAST_WORDS = 0.5
_PATIENCE_AT_THE_END = 3.0
"""Seconds of the agent's end that are kept for BYE and for closing the file."""


class Sender:
    """Delivers `spool` in a thread of its own, and tells `context` how that goes."""

    def __init__(
        self,
        settings: ZmqSettings,
        context: SinkContext,
        spool: Spool,
        pair: KeyPair | None,
        give_up: Callable[[Item, bytes, str], None],
    ) -> None:
        self._settings, self._context, self._spool, self._pair = settings, context, spool, pair
        self._endpoints = Endpoints(
            settings.endpoints,
            context.agent,
            move_after=settings.move_after,
            return_after=settings.return_after,
        )
        self._terms = Terms(
            agent=context.agent,
            window=settings.window,
            hello_timeout=settings.hello_timeout,
            ack_timeout=settings.ack_timeout,
            time_left=self._time_left,
            give_up=give_up,
        )
        self.failed: BaseException | None = None
        """What ended the thread before its time."""
        self._error: SinkError | None = None
        self._failures = 0
        self._welcomed = False
        self._tended = 0.0
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._drain = False
        self._closed_at = 0.0
        self._session: Session | None = None
        self._zmq: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._thread = threading.Thread(target=self._run, name=f"sender {context.name}", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """There is something to deliver."""
        self._wake.set()

    def close(self, *, drain: bool) -> None:
        """End the thread; with `drain` once the spool is empty, or the agent's time is over."""
        self._drain = drain
        self._failures, self._closed_at = 0, time.monotonic()
        self._closing.set()
        self._wake.set()
        self._thread.join()
        self._zmq.term()

    # ---- in the thread

    def _run(self) -> None:
        try:
            while not self._is_done():
                self._tend()
                if not len(self._spool):
                    self._idle()
                    continue
                try:
                    self._deliver()
                except SessionOver as over:
                    self._after(over)
        except BaseException as error:
            self.failed = error
            if not isinstance(error, SinkError):
                log.exception("the sender of sink %r ended", self._context.name)
        finally:
            self._end_session()

    def _is_done(self) -> bool:
        if not self._closing.is_set():
            return False
        if not self._drain or not len(self._spool) or self._time_left() <= 0:
            return True
        # Each endpoint is tried once, for a few seconds at least, since an aggregator may just be starting;
        # one that welcomes us and fails, a little more often.
        if time.monotonic() < self._closed_at + _PATIENCE_AT_THE_END:
            return False
        endpoints = len(self._endpoints.order)
        return self._failures >= (max(_ATTEMPTS, endpoints) if self._welcomed else endpoints)

    def _time_left(self) -> float:
        if self._closing.is_set() and not self._drain:
            return 0.0
        return self._context.time_left() - _LAST_WORDS

    def _deliver(self) -> None:
        if self._session is None:
            self._session = self._new_session()
            self._endpoints.worked()
        session, before = self._session, self._session.confirmed
        try:
            session.deliver(self._enough)
        finally:
            if session.confirmed > before:
                self._failures = 0
        self._endpoints.worked()
        self._tell(None)
        if self._endpoints.should_return and not self._closing.is_set():
            self._end_session()
            self._endpoints.go_back()

    def _enough(self) -> bool:
        """Between two rounds of a session; True where it is to come to rest."""
        self._tend()
        return self._time_left() <= 0 or self._endpoints.should_return

    def _idle(self) -> None:
        self._wake.wait(_TEND_EVERY)
        self._wake.clear()
        if self._session is not None:
            try:
                self._session.look()
            except SessionOver:
                self._end_session()

    def _after(self, over: SessionOver) -> None:
        """Choose where to try next, say what is wrong once it lasts, and pause."""
        self._end_session()
        self._failures += 1
        endpoint = self._endpoints.current
        self._welcomed = over.welcomed
        moved = self._endpoints.failed(hopeless=over.strange or self._closing.is_set())
        hopeless = over.strange and not moved
        if hopeless or self._failures >= max(_ATTEMPTS, len(self._endpoints.order)):
            error = SinkError(
                f"records can't be delivered: {over.reason}",
                where=f"sink {self._context.name!r}, {endpoint}",
                remedy=over.remedy,
            )
            self._tell(error)
        # The whole pause is random, so that a fleet does not come back all at once.
        longest = min(self._settings.backoff_max, self._settings.backoff * 2 ** min(self._failures - 1, 30))
        end = time.monotonic() + random.uniform(0.0, longest)
        while (left := end - time.monotonic()) > 0 and not self._is_done():
            self._tend()
            self._closing.wait(min(left, _TEND_EVERY))
            if self._closing.is_set():
                time.sleep(min(left, 0.05))

    def _new_session(self) -> Session:
        endpoint = self._endpoints.current
        try:
            connection = Connection(
                self._zmq,
                endpoint,
                window=self._settings.window,
                pair=self._pair,
                server_key=self._settings.server_key_of(endpoint),
            )
        except zmq.ZMQError as error:
            raise SessionOver(
                f"can't connect: {error.strerror}",
                remedy="look at the endpoint's name and port",
                strange=True,
            ) from None
        return Session(connection, endpoint, self._spool, self._terms)

    def _end_session(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def _tend(self) -> None:
        now = time.monotonic()
        if now - self._tended >= _TEND_EVERY:
            self._tended = now
            self._spool.tend()
            self._context.note_state(self._error, self._spool.state())

    def _tell(self, error: SinkError | None) -> None:
        if str(error) != str(self._error):
            self._error = error
            self._context.note_state(error, self._spool.state())

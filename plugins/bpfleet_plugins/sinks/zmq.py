"""The zmq sink: records to an aggregator, each until the aggregator says that it is safe."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import zmq

from bpfleet import Duration, Frame, SinkContext, SinkError, SinkSettings, SinkType, Size, hookimpl
from bpfleet_plugins.sinks.dead_letters import DeadLetters
from bpfleet_plugins.sinks.zmq_session import Session, SessionOver
from bpfleet_plugins.sinks.zmq_spool import Item, Spool

__all__ = ["ZmqSettings", "ZmqSink", "bpfleet_sinks"]

_ATTEMPTS = 3
_ENDPOINT = re.compile(r"tcp://[^\s/]+:\d{1,5}\Z|ipc://\S+\Z")


class ZmqSettings(SinkSettings, frozen=True, kw_only=True):
    """Where the aggregator is, and how long to wait for it."""

    endpoints: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    """Aggregators of one store, as `tcp://HOST:PORT`: the first that answers is used."""
    compression: Literal["none", "zstd"] = "zstd"
    level: Annotated[int, msgspec.Meta(ge=1, le=19)] = 3
    """Of zstd: 1 is fastest, 19 smallest."""
    window: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 8
    """Records on their way at once, where the aggregator allows as many."""
    hello_timeout: Duration = Duration(5.0)
    """How long an aggregator may take to answer at first."""
    ack_timeout: Duration = Duration(30.0)
    """How long it may take to confirm anything."""
    backoff: Duration = Duration(0.5)
    """The pause after a failed session: anything up to this, doubled each time."""
    backoff_max: Duration = Duration(30.0)
    dead_letters: Size = Size(16 << 20)
    """The size of the file for records that the aggregator refuses for good."""

    def __post_init__(self) -> None:
        for endpoint in self.endpoints:
            if not _ENDPOINT.match(endpoint):
                raise ValueError(f"endpoint {endpoint!r} is not tcp://HOST:PORT or ipc://PATH")


class _Memory:
    """What outlives one sink object: its numbering, and the endpoint to try next."""

    def __init__(self, settings: ZmqSettings) -> None:
        self.spool = Spool(settings.level if settings.compression == "zstd" else None)
        self.endpoint = 0


_memories: dict[tuple[Path, str, ZmqSettings], _Memory] = {}


class ZmqSink:
    """Delivers records in sessions; see `docs/delivery.md`."""

    def __init__(self, settings: ZmqSettings, context: SinkContext) -> None:
        self._settings = settings
        self._context = context
        key = (context.state, context.name, settings)
        self._memory = _memories.setdefault(key, _Memory(settings))
        self._spool = self._memory.spool
        self._dead_letters = DeadLetters(
            context.state / "dead-letters" / f"{context.name}.bpfleet", context.user, settings.dead_letters
        )
        self._zmq: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._session: Session | None = None

    def write(self, frames: Sequence[Frame]) -> None:
        """Return once the aggregator has made `frames` durable, or has refused some for good.

        Raises SinkError after a few sessions in a row in which nothing was confirmed.
        """
        self._spool.take(frames)
        try:
            self._deliver()
        finally:
            self._spool.end_write()

    def close(self) -> None:
        """Say BYE and let go of the socket."""
        self._end_session()
        self._zmq.term()

    def _deliver(self) -> None:
        failures = 0
        while len(self._spool):
            left = len(self._spool)
            try:
                if self._session is None:
                    self._session = self._new_session()
                self._session.deliver(self._give_up)
            except SessionOver as over:
                self._end_session()
                failures = failures + 1 if len(self._spool) == left else 1
                self._after(over, failures)

    def _after(self, over: SessionOver, failures: int) -> None:
        """Pause and choose where to try next, or raise SinkError."""
        endpoint, count = self._endpoint, len(self._settings.endpoints)
        if over.strange or not over.welcomed:
            self._memory.endpoint = (self._memory.endpoint + 1) % count
        hopeless = over.strange and count == 1
        if hopeless or failures >= max(_ATTEMPTS, count) or self._context.stopping():
            raise SinkError(
                f"records can't be delivered: {over.reason}",
                where=f"sink {self._context.name!r}, {endpoint}",
                remedy=over.remedy,
            )
        # The whole pause is random, so that a fleet does not come back all at once.
        longest = min(self._settings.backoff_max, self._settings.backoff * 2 ** (failures - 1))
        end = time.monotonic() + random.uniform(0.0, longest)
        while (left := end - time.monotonic()) > 0 and not self._context.stopping():
            time.sleep(min(left, 0.1))

    @property
    def _endpoint(self) -> str:
        return self._settings.endpoints[self._memory.endpoint]

    def _new_session(self) -> Session:
        return Session(
            self._zmq,
            self._endpoint,
            self._spool,
            self._context.agent,
            window=self._settings.window,
            hello_timeout=self._settings.hello_timeout,
            ack_timeout=self._settings.ack_timeout,
            stopping=self._context.stopping,
        )

    def _end_session(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def _give_up(self, item: Item, reason: str) -> None:
        self._dead_letters.keep(item.frame, reason)
        self._context.note_lost([item.frame], "refused")


@hookimpl
def bpfleet_sinks() -> list[SinkType]:
    """The zmq sink."""
    return [
        SinkType(
            name="zmq",
            help="Delivers records to an aggregator over ZeroMQ, each until it is acknowledged.",
            open=ZmqSink,
            settings=ZmqSettings,
        )
    ]

"""The zmq sink: records to a spool on disk, and from there to an aggregator, until it has made them safe."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from bpfleet import Frame, SinkContext, SinkError, SinkType, hookimpl
from bpfleet.wire import compress
from bpfleet_plugins.sinks.dead_letters import DeadLetters
from bpfleet_plugins.sinks.spool import Spool
from bpfleet_plugins.sinks.zmq_check import own_pair, problems, spool_path
from bpfleet_plugins.sinks.zmq_sender import Sender
from bpfleet_plugins.sinks.zmq_settings import ZmqSettings

__all__ = ["ZmqSettings", "ZmqSink", "bpfleet_sinks"]


log = logging.getLogger("bpfleet.sink.zmq")


class ZmqSink:
    """Spools records, and delivers them in a thread of its own; see `docs/delivery.md`.

    Opening it raises SinkError where the spool can't be had, ConfigError or PrivilegeError where the keys
    can't.
    """

    def __init__(self, settings: ZmqSettings, context: SinkContext) -> None:
        self._settings, self._context = settings, context
        pair = own_pair(settings, context.state)
        self._spool = Spool(
            spool_path(context),
            context.user,
            context.name,
            size=settings.spool_size,
            age=settings.spool_age,
            sync_interval=settings.sync_interval if settings.sync == "interval" else 0.0,
            pack=self._packed,
        )
        dead_letters = DeadLetters(
            context.state / "dead-letters" / f"{context.name}.bpfleet", context.user, settings.dead_letters
        )
        self._sender = Sender(settings, context, self._spool, pair, dead_letters.keep)

    def write(self, frames: Sequence[Frame]) -> None:
        """Return once `frames` are spooled: from then on the death of this process loses none of them.

        Raises SinkFull where the disk has no room for them; what is spooled is delivered meanwhile. Raises
        SinkError where the spool can't be used any more.
        """
        failed = self._sender.failed
        if failed is not None:
            raise SinkError(
                f"delivery has ended: {failed}",
                where=f"sink {self._context.name!r}",
                remedy="the sink is opened again; the records wait",
            )
        self._spool.take(frames)
        self._sender.wake()

    def close(self) -> None:
        """Let go of spool and socket; where the agent stops, deliver first while there is time."""
        self._sender.close(drain=self._context.stopping())
        if self._context.stopping() and len(self._spool):
            log.info("sink %r: %d records wait in the spool", self._context.name, len(self._spool))
        self._spool.close()

    def _packed(self, data: bytes | memoryview) -> bytes | memoryview:
        """The record as it is sent: compressed where that is wanted and makes it smaller."""
        if self._settings.compression == "zstd":
            packed = compress(data, self._settings.level)
            if len(packed) < len(data):
                return packed
        return data


@hookimpl
def bpfleet_sinks() -> list[SinkType]:
    """The zmq sink."""
    return [
        SinkType(
            name="zmq",
            help="Delivers records to an aggregator over ZeroMQ, each until it is acknowledged.",
            open=ZmqSink,
            settings=ZmqSettings,
            check=problems,
        )
    ]

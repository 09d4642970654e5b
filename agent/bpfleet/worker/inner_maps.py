"""Asking the supervisor for inner maps, in a tick: it answers at once, or the tick goes on without."""

from __future__ import annotations

import logging
import select
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from bpfleet.ipc import Channel, ChannelClosed, close_all
from bpfleet.protocol import OpenInner, plain
from bpfleet.reading.inner_maps import InnerMaps
from bpfleet.worker.collecting import RunningCollector

__all__ = ["InnerMapOpener"]

log = logging.getLogger("bpfleet")

_SECONDS = 5.0
_AT_ONCE = 128


class InnerMapOpener:
    """Opens inner maps through `channel`; other messages that come meanwhile go to `take`."""

    def __init__(self, channel: Channel, take: Callable[[dict[str, Any], list[int]], None]) -> None:
        self._channel, self._take = channel, take

    def serve(self, collectors: Iterable[RunningCollector]) -> None:
        """Let the readers of these collectors' maps of maps ask us."""
        for collector in collectors:
            for one in collector.maps:
                if isinstance(one.reader, InnerMaps):
                    one.reader.fetch = partial(self._open, collector.name, one.name)

    def _open(self, collector: str, name: str, ids: list[int]) -> Mapping[int, int]:
        found: dict[int, int] = {}
        for at in range(0, len(ids), _AT_ONCE):
            request = OpenInner(collector=collector, map=name, ids=tuple(ids[at : at + _AT_ONCE]))
            try:
                self._channel.send(plain(request))
                found |= self._answer(collector, name)
            except ChannelClosed:
                break  # the loop will learn of it, too
        return found

    def _answer(self, collector: str, name: str) -> dict[int, int]:
        end = time.monotonic() + _SECONDS
        while (left := end - time.monotonic()) > 0:
            readable, _, _ = select.select([self._channel], [], [], left)
            if not readable:
                break
            message, fds = self._channel.receive()
            if message["op"] != "inner":
                self._take(message, fds)
            elif (message["collector"], message["map"]) == (collector, name):
                return dict(zip(message["ids"], fds, strict=True))
            else:
                close_all(fds)  # one that came too late
        log.warning("collector %r, map %r: its inner maps were not opened in time", collector, name)
        return {}

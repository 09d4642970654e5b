"""The zmq sink's settings."""

from __future__ import annotations

import re
from typing import Annotated, Literal

import msgspec

from bpfleet import Duration, SinkSettings, Size
from bpfleet.keys import KEY_FILE, is_key

__all__ = ["ZmqSettings"]

_TCP = re.compile(r"tcp://(\[[^\s\[\]]+\]|[^\s/:\[\]]+):(\d{1,5})\Z")
_IPC = re.compile(r"ipc://\S+\Z")
_LOOPBACK = re.compile(r"localhost\Z|127(\.\d{1,3}){3}\Z|\[::1\]\Z")
_SMALLEST = 1 << 20


class ZmqSettings(SinkSettings, frozen=True, kw_only=True):
    """Where the aggregators are, how long to wait for them, and what may wait for them."""

    endpoints: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    """Aggregators of one store, as `tcp://HOST:PORT` or `ipc://PATH`; each agent has an order of its own."""
    server_key: tuple[str, ...] = ()
    """The aggregators' public keys: one for all, or one for each endpoint."""
    key: str = KEY_FILE
    """The file of the agent's own key pair; a relative path is under its state folder."""
    curve: Literal["on", "off"] = "on"
    """`off` lets records go unencrypted to other hosts."""
    compression: Literal["none", "zstd"] = "zstd"
    level: Annotated[int, msgspec.Meta(ge=1, le=19)] = 3
    """Of zstd: 1 is fastest, 19 smallest."""
    spool_size: Size = Size(256 << 20)
    """Bytes on disk that may wait; beyond it the oldest records go and a gap tells of them."""
    spool_age: Duration = Duration(7 * 86400.0)
    """How long a record may wait."""
    sync: Literal["always", "interval"] = "interval"
    """When spooled records are forced to the disk: with each write, or every `sync_interval`."""
    sync_interval: Duration = Duration(5.0)
    window: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 8
    """Records on their way at once, where the aggregator allows as many."""
    hello_timeout: Duration = Duration(5.0)
    """How long an aggregator may take to answer at first."""
    ack_timeout: Duration = Duration(30.0)
    """How long it may take to confirm anything."""
    backoff: Duration = Duration(0.5)
    """The pause after a failed session: anything up to this, doubled each time."""
    backoff_max: Duration = Duration(30.0)
    move_after: Duration = Duration(15.0)
    """How long an endpoint must have been dead before the next one is used."""
    return_after: Duration = Duration(300.0)
    """After how long, about, the preferred endpoint is tried again."""
    dead_letters: Size = Size(16 << 20)
    """The size of the file for records that the aggregator refuses for good."""

    def __post_init__(self) -> None:
        for endpoint in self.endpoints:
            if not (_TCP.match(endpoint) or _IPC.match(endpoint)):
                raise ValueError(f"endpoint {endpoint!r} is not tcp://HOST:PORT or ipc://PATH")
        if len(set(self.endpoints)) != len(self.endpoints):
            raise ValueError("an endpoint is named twice")
        if self.spool_size < _SMALLEST:
            raise ValueError(f"spool_size is {self.spool_size} bytes, at least 1MiB is needed")
        self._check_keys()

    def server_key_of(self, endpoint: str) -> str | None:
        """The key that the aggregator at `endpoint` must have; None where CURVE is not used with it."""
        if self.curve == "off" or not self.server_key:
            return None
        at = self.endpoints.index(endpoint) if len(self.server_key) > 1 else 0
        return self.server_key[at]

    def _check_keys(self) -> None:
        for key in self.server_key:
            if not is_key(key):
                raise ValueError(
                    f"server_key {key!r} is no public key: those have 40 characters; bpfleet keys show prints"
                    " it on the aggregator's host"
                )
        if len(self.server_key) not in (0, 1, len(self.endpoints)):
            raise ValueError(
                f"there are {len(self.endpoints)} endpoints and {len(self.server_key)} server keys: give one"
                " for all, or one for each"
            )
        if self.curve == "on" and not self.server_key:
            for endpoint in self.endpoints:
                found = _TCP.match(endpoint)
                if found and not _LOOPBACK.match(found.group(1)):
                    raise ValueError(
                        f"endpoint {endpoint!r} is another host and there is no server_key: give the"
                        " aggregator's public key (bpfleet keys show, there), and make this agent's pair with"
                        ' bpfleet keys new; or say curve = "off" to send records unencrypted'
                    )

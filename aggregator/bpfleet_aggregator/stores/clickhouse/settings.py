"""What the store can be told."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from bpfleet.errors import ConfigError
from bpfleet.settings import Duration, Size
from bpfleet.stores import StoreSettings

__all__ = ["ClickhouseSettings"]

_URL = re.compile(r"https?://(\[[0-9A-Fa-f:.]+\]|[^\s/:@\[\]]+)(:\d{1,5})?/?\Z")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


class ClickhouseSettings(StoreSettings, frozen=True, kw_only=True):
    """Where the server is, what it keeps, and for how long."""

    url: str = "http://127.0.0.1:8123"
    """The server's HTTP interface: `http://HOST:PORT` or `https://HOST:PORT`."""
    database: str = "bpfleet"
    """Made where it is missing. Nothing else should be in it."""
    user: str = "default"
    password: str = ""
    password_file: str | None = None
    """A file whose first line is the password, in place of `password`."""
    ca_file: str | None = None
    """Certificates that an https server's is checked with; the system's where absent."""
    connect_timeout: Duration = Duration(5.0)
    timeout: Duration = Duration(120.0)
    """How long the server may take for one statement, or between two blocks of an answer."""
    compression: Literal["none", "gzip"] = "none"
    """Of what is inserted: `gzip` for a slow network, at the cost of the aggregator's CPU."""
    cluster: str | None = None
    """Make databases, tables and views ON CLUSTER of this name."""
    replicated: bool = False
    """Tables that are replicated through ZooKeeper or ClickHouse Keeper."""
    replica_path: str = "/clickhouse/tables/{shard}/DATABASE/TABLE"
    """Where a replicated table is in ZooKeeper; DATABASE and TABLE are filled in here."""
    replica: str = "{replica}"
    quorum: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Replicas that have a row before it is acknowledged; 0: one, the others follow."""
    fsync: bool = True
    """Have the server sync each insert to disk (where it can: since 21.1)."""
    retention: Duration | None = None
    """Days older than this go; nothing does where absent."""
    max_size: Size | None = None
    """Bytes that this server's tables may take together: beyond it the oldest days go."""

    def __post_init__(self) -> None:
        if not _URL.match(self.url):
            raise ValueError(f"url {self.url!r} is not http://HOST:PORT or https://HOST:PORT")
        for key in ("database", "cluster"):
            name = getattr(self, key)
            if name is not None and not _NAME.match(name):
                raise ValueError(f"{key} {name!r} is not a name: letters, digits and _")
        if self.password and self.password_file:
            raise ValueError("password and password_file can't both be set")
        if self.quorum > 1 and not self.replicated:
            raise ValueError("quorum needs replicated = true")
        if self.replicated and "TABLE" not in self.replica_path:
            raise ValueError(
                f"replica_path {self.replica_path!r} lacks TABLE: each table needs a path of its own"
            )

    def secret(self, state: Path) -> str:
        """The password; raises ConfigError where its file can't be read."""
        if self.password_file is None:
            return self.password
        path = state / self.password_file
        try:
            return path.read_text().partition("\n")[0].strip("\r")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"the password can't be read: {error}",
                where=f"password_file = {self.password_file!r}",
                remedy="name a file that the aggregator's user can read, with the password in its first line",
            ) from None

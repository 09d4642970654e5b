"""The aggregator's configuration: TOML, the `[aggregator]` table and one store."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from bpfleet.errors import ConfigError
from bpfleet.plugins import Plugins
from bpfleet.settings import Duration, Settings, Size, a_table, convert, read_tables
from bpfleet.stores import StoreSettings, StoreType

__all__ = ["DEFAULT_PATH", "AggregatorSettings", "Config", "parse", "read"]

DEFAULT_PATH = Path("/etc/bpfleet/aggregator.toml")
_DEFAULT_STORE = "duckdb"
_ENDPOINT = re.compile(r"tcp://(?P<host>\[[^\s\]]+\]|[^\s/:]+):(\d{1,5}|\*)\Z|ipc://\S+\Z")
_LOOPBACK = re.compile(r"127\.\d+\.\d+\.\d+|\[::1\]|localhost")


class AggregatorSettings(Settings, frozen=True, kw_only=True):
    """The `[aggregator]` table."""

    bind: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)] = ("tcp://127.0.0.1:7700",)
    """Where agents connect to: `tcp://ADDRESS:PORT` or `ipc://PATH`."""
    curve: Literal["auto", "on", "off"] = "auto"
    """`auto`: encrypted and authenticated where `key` is set. `off` also where other hosts can connect."""
    key: str | None = None
    """The file with the aggregator's secret key."""
    keys: str = "/etc/bpfleet/agent-keys"
    """The file that lists the public keys of the agents that are admitted."""
    state: str = "/var/lib/bpfleet-aggregator"
    """Where stores keep files with relative paths, and which key an agent came with first is kept."""
    user: str | None = None
    """Who it runs as after binding, when started by root; `bpfleet` where that user exists, else `nobody`."""
    window: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 16
    """Records of one agent that may be on their way."""
    max_size: Size = Size(4 << 20)
    """The longest record taken, as sent."""
    memory: Size = Size(256 << 20)
    """Records that are received and not yet stored take at most about this much."""
    schemas: Annotated[int, msgspec.Meta(ge=1)] = 2000
    """Different schemas that the store may come to have; records of a further one are refused."""
    columns: Annotated[int, msgspec.Meta(ge=1)] = 40_000
    """Of all these schemas together."""
    agent_schemas: Annotated[int, msgspec.Meta(ge=1)] = 200
    """Of those that one agent may be the first to come with, since the aggregator's start."""
    agent_columns: Annotated[int, msgspec.Meta(ge=1)] = 4000
    """Of the schemas of one agent together."""
    commit_interval: Duration = Duration(0.25)
    """A record waits at most this long for others to be stored with it."""
    commit_size: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 5000
    """As many records are stored at once."""
    idle: Duration = Duration(900)
    """A session that was silent this long is looked at: is its peer still there?"""
    drain: Duration = Duration(10)
    """How long what was received may take to be stored when the aggregator ends."""
    io_threads: Annotated[int, msgspec.Meta(ge=1, le=16)] = 2
    """ZeroMQ's own threads; in each shard."""
    shards: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    """Processes that receive, each for a part of the agents; 1: the one that stores receives, too."""

    def __post_init__(self) -> None:
        for endpoint in self.bind:
            if not _ENDPOINT.match(endpoint):
                raise ValueError(f"endpoint {endpoint!r} is not tcp://ADDRESS:PORT or ipc://PATH")
        if not 1 <= self.max_size <= 4 << 20:
            raise ValueError("max_size is from 1B to 4MiB")
        if self.memory < 4 * self.max_size:
            raise ValueError("memory must hold four of the longest records (max_size)")
        if self.curve == "on" and self.key is None:
            raise ValueError('curve = "on" needs a key')

    @property
    def encrypted(self) -> bool:
        """Whether CURVE is used."""
        return self.curve != "off" and self.key is not None

    @property
    def open_endpoints(self) -> list[str]:
        """Of `bind`, those that other hosts can connect to."""
        found = ((endpoint, _ENDPOINT.match(endpoint)) for endpoint in self.bind)
        hosts = ((endpoint, match and match.group("host")) for endpoint, match in found)
        return [endpoint for endpoint, host in hosts if host and not _LOOPBACK.fullmatch(host)]


@dataclass(frozen=True, slots=True)
class Config:
    """The configuration, checked; the store's settings are still to be converted by its own model."""

    path: str
    aggregator: AggregatorSettings
    store: str
    """The store's name."""
    table: Mapping[str, Any]
    """The store's table."""

    def store_type(self) -> tuple[StoreType, StoreSettings]:
        """The store's type, imported, and its settings; raises PluginError or ConfigError."""
        found = Plugins().store_type(str(self.table.get("type", self.store)))
        return found, convert(self.table, found.settings, where=f"{self.path}: [store.{self.store}]")


def read(path: Path | None) -> Config:
    """The configuration of that file, or of the usual one, or what is built in; raises ConfigError."""
    if path is None:
        if not DEFAULT_PATH.exists():
            return parse("", "built-in default")
        path = DEFAULT_PATH
    try:
        return parse(path.read_text(), str(path))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(
            f"the configuration can't be read: {reason}",
            where=str(path),
            remedy="give an existing file with --config",
        ) from None


def parse(text: str, path: str) -> Config:
    """Read the TOML `text` of file `path`; raises ConfigError naming place and remedy."""
    known = {"aggregator": "[aggregator]", "store": "one [store.NAME]"}
    tables = read_tables(text, path, known, remedy="see docs/aggregator.md")
    own = a_table(tables.get("aggregator", {}), "aggregator", path)
    settings = convert(own, AggregatorSettings, where=f"{path}: [aggregator]")
    _refuse_open_doors(settings, path)
    store, table = _store(a_table(tables.get("store", {}), "store.NAME", path), path)
    return Config(path, settings, store, table)


def _store(tables: Mapping[str, Any], path: str) -> tuple[str, Mapping[str, Any]]:
    if len(tables) > 1:
        raise ConfigError(
            f"{len(tables)} stores: {', '.join(tables)}", where=path, remedy="leave one [store.NAME]"
        )
    for name, table in tables.items():
        return name, a_table(table, f"store.{name}", path)
    return _DEFAULT_STORE, {}


def _refuse_open_doors(settings: AggregatorSettings, path: str) -> None:
    if settings.encrypted or settings.curve == "off" or not settings.open_endpoints:
        return
    raise ConfigError(
        f"anybody who reaches {settings.open_endpoints[0]} could send records in any agent's name",
        where=f"{path}: [aggregator] bind",
        remedy='set key and keys (docs/aggregator.md), or curve = "off" where the network itself is trusted',
    )

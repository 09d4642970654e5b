"""Which store a question is for: a folder, or what the aggregator's configuration names."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from bpfleet.errors import ConfigError
from bpfleet.plugins import Plugins
from bpfleet.settings import convert
from bpfleet.stores import StoreContext, StoreReader
from bpfleet_aggregator.query.notes import note

__all__ = ["CONFIG", "STATE", "find_store"]

CONFIG = Path("/etc/bpfleet/aggregator.toml")
STATE = Path("/var/lib/bpfleet-aggregator")


def find_store(config: Path | None, folder: Path | None) -> StoreReader:
    """Open it for reading. Raises ConfigError for a wrong configuration, StoreError where there is none."""
    if folder is not None:
        return _read("duckdb", {"path": str(folder.absolute())}, STATE, "--store")
    path = config or CONFIG
    text = _text(path) if config or path.exists() else ""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"the configuration is no TOML: {error}", where=str(path)) from None
    stores = tables.get("store", {"duckdb": {}})
    if not isinstance(stores, dict) or len(stores) != 1:
        raise ConfigError("one [store.NAME] table is needed", where=str(path), remedy="write [store.duckdb]")
    ((name, settings),) = stores.items()
    state = tables.get("aggregator", {}).get("state", str(STATE))
    return _read(name, settings, Path(state), f"{path}: store.{name}")


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the configuration can't be read: {error}", where=str(path)) from None


def _read(name: str, settings: dict[str, Any], state: Path, where: str) -> StoreReader:
    kind = Plugins().store_type(settings.get("type") or name)
    return kind.read(convert(settings, kind.settings, where=where), StoreContext(name, state, note))

"""The configuration: TOML, one table per collector and sink."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from bpfleet.errors import ConfigError
from bpfleet.settings import Duration, Settings, Size, a_table, convert, read_tables

__all__ = ["DEFAULT", "DEFAULT_PATH", "AgentSettings", "Config", "parse", "read"]

DEFAULT_PATH = Path("/etc/bpfleet/bpfleet.toml")

DEFAULT = """\
[collectors.execve]
[collectors.cputime]
[collectors.dnslat]
[sinks.stdout]
"""
"""What runs where there is no configuration."""


class AgentSettings(Settings, frozen=True, kw_only=True):
    """The `[agent]` table."""

    interval: Duration = Duration(10)
    """Time between two snapshots, for collectors that say nothing else."""
    user: str | None = None
    """The user that plugins run as; `bpfleet` where it exists, else `nobody`."""
    state: str = "/var/lib/bpfleet"
    """Where the agent keeps its id, and sinks their files."""
    status_interval: Duration = Duration(60)
    """Time between two status records; one more is sent whenever a state changes."""
    load_timeout: Duration = Duration(30)
    """How long a collector's loader may take."""
    rescan: Duration = Duration(60)
    """Time between two looks for new copies of libraries, where a program is attached `everywhere`."""
    drain: Duration = Duration(10)
    """How long sinks may take to deliver what waits when the agent ends."""
    frame_size: Size = Size(1 << 20)
    """Larger snapshots are sent in parts of about this size."""
    control: str = "/run/bpfleet/control"
    """The socket for `bpfleet set`, `get` and `status`; empty: none."""
    control_group: str | None = None
    """A group whose members may use it too; else only root."""
    programs: str | None = None
    """A folder of `NAME.bpf.o` and `NAME.bpf.c` files, each a collector (docs/programs.md)."""
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    """Labels of this host, in every status record."""
    host_labels: tuple[str, ...] = ()
    """Plugins that give more labels."""


@dataclass(frozen=True, slots=True)
class Config:
    """The configuration, checked as far as it can be without the plugins."""

    path: str
    agent: AgentSettings
    collectors: Mapping[str, dict[str, Any]]
    sinks: Mapping[str, dict[str, Any]]
    from_command_line: Collection[str] = ()
    """Collectors that no table names."""
    only: Collection[str] | None = None
    """The collectors that run; None: all that tables and the folder of programs name."""

    def runs(self, name: str) -> bool:
        """Whether a collector of this name is among those wanted."""
        return self.only is None or name in self.only


def read(path: Path | None) -> tuple[str, str]:
    """(text, name) of the configuration file; raises ConfigError where it can't be read."""
    if path is None:
        if not DEFAULT_PATH.exists():
            return DEFAULT, "built-in default"
        path = DEFAULT_PATH
    try:
        return path.read_text(), str(path)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(
            f"the configuration can't be read: {reason}",
            where=str(path),
            remedy="give an existing file with --config",
        ) from None


def parse(text: str, path: str) -> Config:
    """Read the TOML `text` of file `path`; raises ConfigError naming place and remedy."""
    known = {"agent": "[agent]", "collectors": "[collectors.NAME]", "sinks": "[sinks.NAME]"}
    tables = read_tables(text, path, known, remedy="bpfleet check FILE after each change")
    return Config(
        path,
        convert(a_table(tables.get("agent", {}), "agent", path), AgentSettings, where=f"{path}: [agent]"),
        _tables(tables, "collectors", path),
        _tables(tables, "sinks", path),
    )


def _tables(tables: Mapping[str, Any], name: str, path: str) -> dict[str, dict[str, Any]]:
    found = a_table(tables.get(name, {}), name, path)
    return {key: a_table(table, f"{name}.{key}", f"{path}: [{name}]") for key, table in found.items()}

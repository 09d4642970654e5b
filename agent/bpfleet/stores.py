"""What an aggregator keeps records in, as plugins see it.

A store is what `bpfleet_stores()` offers under an entry point `store.NAME`: the aggregator hands it batches,
and answers agents once a batch is durable; `bpfleet query` asks it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from bpfleet.settings import Settings

if TYPE_CHECKING:
    import pyarrow

    from bpfleet.wire import Gap, Snapshot, Status

__all__ = ["Received", "Store", "StoreContext", "StoreReader", "StoreSettings", "StoreType"]


class StoreSettings(Settings, frozen=True, kw_only=True):
    """What every store can be told; a store's own model extends it."""

    type: str | None = None
    """The store type; the table's name where absent."""


class Received(msgspec.Struct, frozen=True, eq=False, gc=False):
    """One record as an agent delivered it, checked; its seq is new in its spool."""

    agent: str
    spool: str
    """The numbering that `seq` counts in."""
    seq: int
    """Higher than every seq of this spool that was handed over before; not always by one."""
    record: Snapshot | Gap | Status
    size: int
    """Bytes as received."""
    at: int
    """CLOCK_REALTIME ns when it was received."""


class Store(Protocol):
    """Keeps records. All methods are called by one thread, the committer's.

    A store that makes something for each schema may also have `schemas()`, asked once before the first batch:
    those that it has. `[aggregator] schemas` counts from them.
    """

    def marks(self, spools: Sequence[tuple[str, str]]) -> Sequence[int]:
        """The highest durable seq of each (agent, spool), 0 where none is."""

    def commit(self, batch: Sequence[Received]) -> None:
        """Make `batch` durable: its rows, and with them the marks of its spools, all or nothing.

        Returns once no crash of this process or machine can lose any of it. Raises StoreError for "not now"
        (a full disk, a server that does not answer): nothing of it is acknowledged, and it comes again.
        A store that removes repeats by (agent, spool, seq) itself need not be transactional.
        """

    def maintain(self) -> None:
        """Now and then, between batches: what is too old, or too much, goes."""

    def close(self) -> None:
        """Let go of files and connections; nothing follows."""


class StoreReader(Protocol):
    """Answers questions, beside an aggregator that writes, or without one."""

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> pyarrow.RecordBatchReader:
        """Run one statement that reads; raises StoreError with the engine's own words where it can't.

        The batches come as they are made; close the reader to end the question early.
        """

    def close(self) -> None:
        """Let go of files and connections."""


@dataclass(frozen=True, slots=True)
class StoreContext:
    """What a store may know of its surroundings."""

    name: str
    """The store's name in the configuration."""
    state: Path
    """The aggregator's state directory; relative paths in settings are under it."""
    note: Callable[[str], None] = field(default=lambda message: None)
    """Tell the operator one line: data removed by retention, a server that is back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreType:
    """A kind of store: its name, settings model, how to open it for writing and for reading.

    Both raise StoreError, or ConfigError where a setting is wrong.
    """

    name: str
    help: str
    open: Callable[[Any, StoreContext], Store]
    read: Callable[[Any, StoreContext], StoreReader]
    settings: type[StoreSettings] = StoreSettings

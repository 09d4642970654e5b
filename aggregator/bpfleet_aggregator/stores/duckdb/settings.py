"""What the embedded store can be told."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec

from bpfleet.settings import Duration, Size
from bpfleet.stores import StoreContext, StoreSettings

__all__ = ["DuckdbSettings"]

_SMALL = 2 << 30


class DuckdbSettings(StoreSettings, frozen=True, kw_only=True):
    """Where records are kept, for how long, and what questions may cost."""

    path: str = "duckdb"
    """The folder of the partition files; a relative path is under the aggregator's state folder."""
    retention: Duration = Duration(30 * 86400.0)
    """A partition whose newest record is older is removed."""
    size_limit: Size = Size(10 << 30)
    """Beyond it the oldest partitions are removed; the folder stays below it plus one partition."""
    partition: Duration = Duration(86400.0)
    """A partition file takes records for so long, or until it has a twentieth of `size_limit`."""
    memory: Size = Size(1 << 30)
    """What the database may take for writing and all questions together."""
    threads: Annotated[int, msgspec.Meta(ge=1, le=256)] = 2
    """Of the database, for writing and questions together."""
    questions: Annotated[int, msgspec.Meta(ge=1, le=64)] = 4
    """Questions answered at a time; more wait, and are refused after ten seconds."""
    question_timeout: Duration = Duration(300.0)
    """A question that takes longer is interrupted."""
    question_rows: Annotated[int, msgspec.Meta(ge=1)] = 100_000_000
    """An answer with more rows is ended with an error."""
    socket_mode: Literal["0600", "0660"] = "0600"
    """Who may ask while the aggregator runs: its user, or its user and group."""

    @property
    def partition_size(self) -> int:
        """Bytes after which a partition takes no more."""
        return max(self.size_limit // 20, 1 << 20)

    @property
    def block_size(self) -> int:
        """Bytes of a block of a file: small ones where a partition is, so that little is left empty."""
        return 1 << 14 if self.size_limit < _SMALL else 1 << 18

    def folder(self, context: StoreContext) -> Path:
        """The folder of the partition files."""
        return context.state / self.path

"""The in-memory database that partition files are attached to, closed against all that is not the store's."""

from __future__ import annotations

from pathlib import Path

import duckdb

from bpfleet.errors import StoreError
from bpfleet_aggregator.stores.duckdb.settings import DuckdbSettings

__all__ = ["Busy", "attach", "connect", "detach", "quoted", "text"]

_SLOTS = 64


class Busy(StoreError):
    """Raised where another process has a partition file open."""


def quoted(name: str) -> str:
    """A name in SQL."""
    escaped = name.replace('"', '""')
    return f'"{escaped}"'


def text(value: str) -> str:
    """A text in SQL."""
    escaped = value.replace("'", "''")
    return f"'{escaped}'"


def connect(folder: Path, settings: DuckdbSettings) -> duckdb.DuckDBPyConnection:
    """A database that may touch files in `folder` only, and whose configuration can't be changed any more."""
    connection = duckdb.connect(
        ":memory:",
        config={
            "threads": settings.threads,
            "memory_limit": f"{settings.memory}B",
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "allow_community_extensions": False,
            "python_enable_replacements": False,
            "preserve_insertion_order": False,
        },
    )
    threshold = min(16 << 20, settings.partition_size // 4)
    for statement in (
        f"SET GLOBAL checkpoint_threshold = '{threshold}B'",
        "SET GLOBAL TimeZone = 'UTC'",
        f"SET GLOBAL temp_directory = {text(str(folder / 'tmp'))}",
        f"SET GLOBAL allowed_directories = [{text(f'{folder}/')}]",
        "SET GLOBAL enable_external_access = false",
        "CREATE SCHEMA store",  # views that are for other views
        f"CREATE MACRO histogram_quantile(counts, q) AS {_QUANTILE}",
        f"CREATE MACRO histogram_sum(counts) AS {_SUM}",
        "SET GLOBAL lock_configuration = true",
    ):
        connection.execute(statement)
    return connection


_SUM = (
    f"list_filter([{', '.join(f'sum(counts[{i}])' for i in range(1, _SLOTS + 1))}], lambda n: n IS NOT NULL)"
)

# The slot in which the q-th part of all counts lies, then a straight line inside it.
_SLOT = """[
    list_sum(counts[:i]), counts[i], if(i = 1, 0, pow(2, i - 1)), pow(2, i)
]"""
_QUANTILE = f"""list_transform(
    [list_filter(
        list_transform(range(1, len(counts) + 1), lambda i: {_SLOT}::DOUBLE[]),
        lambda s: s[2] > 0 AND s[1] >= q * list_sum(counts)
    )[1]],
    lambda s: s[3] + (s[4] - s[3]) * greatest(q * list_sum(counts) - (s[1] - s[2]), 0) / s[2]
)[1]"""


def attach(
    connection: duckdb.DuckDBPyConnection, path: Path, alias: str, *, block_size: int | None = None
) -> None:
    """Attach a partition: for reading, or with a `block_size` for writing.

    Raises Busy where another process has it open, StoreError where the system refuses, duckdb.Error
    where the file is damaged.
    """
    option = "READ_ONLY" if block_size is None else f"BLOCK_SIZE {block_size}"
    try:
        connection.execute(f"ATTACH {text(str(path))} AS {alias} ({option})")
    except duckdb.Error as error:
        words = str(error)
        if "Could not set lock" in words:
            raise Busy(
                "a partition is open in another process",
                where=str(path),
                remedy=words.partition("held in ")[2].partition(" See also")[0] or "end that process",
            ) from None
        if any(reason in words for reason in _NOT_DAMAGE):
            raise StoreError(f"a partition can't be opened: {words}", where=str(path)) from None
        raise


_NOT_DAMAGE = (
    "Permission denied",
    "No space left on device",
    "Too many open files",
    "No such file",
    "Read-only file system",
    "Out of Memory",
)


def detach(connection: duckdb.DuckDBPyConnection, alias: str) -> None:
    """Let go of a partition; questions that are being answered from it go on to their end."""
    connection.execute(f"DETACH DATABASE IF EXISTS {alias}")

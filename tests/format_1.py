"""A store of the embedded kind as earlier releases left it: format 1, which kept two kinds of losses."""

from __future__ import annotations

from pathlib import Path

import duckdb

KINDS = "failed_insert", "truncated"


def make_format_1(folder: Path) -> None:
    """Have each partition file under `folder`/duckdb be of format 1; no store may have it open."""
    for path in (folder / "duckdb").glob("*.duckdb"):
        database = duckdb.connect(str(path))
        if database.execute("SELECT format FROM partition").fetchall() == [(2,)]:
            database.execute("DROP TABLE IF EXISTS losses_1")
            database.execute("ALTER TABLE snapshots DROP COLUMN losses")
            database.execute("UPDATE partition SET format = 1")
        database.close()

"""`bpfleet query`: a question to the aggregator's store, as a table, JSON lines, CSV, Arrow or Parquet."""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import click
import pyarrow as pa

from bpfleet import hookimpl
from bpfleet.errors import StoreError
from bpfleet.stores import StoreReader
from bpfleet_aggregator.query.finding import find_store
from bpfleet_aggregator.query.printing import BINARY, FORMATS, write

__all__ = ["bpfleet_cli", "command"]


@hookimpl
def bpfleet_cli(app: click.Group) -> None:
    """Add `bpfleet query`."""
    app.add_command(command)


@click.command("query")
@click.argument("sql", required=False)
@click.option("-c", "--config", type=click.Path(path_type=Path), help="The aggregator's configuration.")
@click.option("--store", type=click.Path(path_type=Path), help="The folder of a duckdb store instead.")
@click.option("--format", "form", type=click.Choice(list(FORMATS)), default="table", show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write there.")
@click.option("--param", "params", multiple=True, metavar="VALUE", help="For each ? in turn: JSON, or text.")
@click.option("--limit", type=click.IntRange(0), help="Rows of the answer, at most.")
def command(
    sql: str | None,
    config: Path | None,
    store: Path | None,
    form: str,
    output: Path | None,
    params: tuple[str, ...],
    limit: int | None,
) -> None:
    """Ask the aggregator's store one SQL question; SQL may be a file's name, or - for standard input.

    Without SQL: the relations that there are, with their columns and rows.
    """
    if form in BINARY and output is None and sys.stdout.isatty():
        raise click.UsageError(f"{form} is no text: name a file with --output")
    statement = None if sql is None else _statement(sql)
    reader = find_store(config, store)
    try:
        if statement is None:
            answer = _relations(reader)
        else:
            answer = reader.query(statement, [_parameter(one) for one in params])
        batches = _first(answer, limit)
        if output is None:
            write(form, answer.schema, batches, sys.stdout.buffer)
        else:
            with _opened(output) as file:
                write(form, answer.schema, batches, file)
    finally:
        reader.close()


def _statement(sql: str) -> str:
    if sql == "-":
        return sys.stdin.read()
    if len(sql) < 1024 and " " not in sql.strip() and os.path.isfile(sql):
        return Path(sql).read_text()
    return sql


def _parameter(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _first(answer: pa.RecordBatchReader, limit: int | None) -> Iterator[pa.RecordBatch]:
    left = limit
    for batch in answer if left != 0 else ():
        if left is not None:
            batch = batch.slice(0, left)
            left -= batch.num_rows
        yield batch
        if left == 0:
            return


def _relations(reader: StoreReader) -> pa.RecordBatchReader:
    """Name, rows and columns of every relation; the rows of rates are those of what they are rates of."""
    found: dict[str, list[str]] = {}
    listed = """
        SELECT table_name, column_name FROM information_schema.columns
        WHERE table_schema = current_schema() AND table_catalog = current_database()
        ORDER BY table_name, ordinal_position"""
    rows = reader.query(listed).read_all().to_pylist()
    for name, group in itertools.groupby(rows, lambda row: str(row["table_name"])):
        found[name] = [str(row["column_name"]) for row in group]
    counts = {
        name: reader.query(f"SELECT count(*) AS n FROM {name}").read_all().to_pylist()[0]["n"]
        for name in found
        if not (name.endswith("_rate") and name.removesuffix("_rate") in found)
    }
    table = pa.table(
        {
            "relation": pa.array(found, pa.string()),
            "rows": pa.array([counts.get(name) for name in found], pa.int64()),
            "columns": pa.array([", ".join(columns) for columns in found.values()], pa.string()),
        }
    )
    return table.to_reader()


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("wb")
    except OSError as error:
        raise StoreError(f"the answer can't be written: {error.strerror}", where=str(path)) from None

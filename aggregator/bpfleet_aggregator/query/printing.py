"""An answer as text or bytes; all but the table go out batch by batch, as they come."""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Iterable
from decimal import Decimal
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

__all__ = ["BINARY", "FORMATS", "write"]

BINARY = ("arrow", "parquet")
_MOST_ROWS = 10_000
"""Of a table: nobody reads more, and its columns are as wide as their longest value."""


def write(form: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch], file: BinaryIO) -> None:
    """All of `batches`, in one of `FORMATS`."""
    FORMATS[form](schema, batches, file)
    file.flush()


def _table(schema: pa.Schema, batches: Iterable[pa.RecordBatch], file: BinaryIO) -> None:
    rows: list[list[str]] = []
    more = False
    for batch in batches:
        room = _MOST_ROWS - len(rows)
        rows += ([_cell(value) for value in row] for row in _rows(batch.slice(0, room)))
        if batch.num_rows > room:
            more = True
            break
    numbers = [_is_number(field.type) for field in schema]
    if file.isatty():
        _rich(schema.names, rows, numbers)
    else:
        _plain(schema.names, rows, numbers, file)
    if more:
        file.write(f"(the first {_MOST_ROWS:,} rows; --format json or csv has all)\n".encode())


def _rich(names: list[str], rows: list[list[str]], numbers: list[bool]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False)
    for name, number in zip(names, numbers, strict=True):
        table.add_column(Text(name), justify="right" if number else "left")
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table)


def _plain(names: list[str], rows: list[list[str]], numbers: list[bool], file: BinaryIO) -> None:
    widths = [max(map(len, column)) for column in zip(names, *rows, strict=True)]
    for row in (names, *rows):
        cells = [
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(row, widths, numbers, strict=True)
        ]
        file.write("  ".join(cells).rstrip().encode("utf-8", "replace") + b"\n")


def _json(schema: pa.Schema, batches: Iterable[pa.RecordBatch], file: BinaryIO) -> None:
    for batch in batches:
        for row in _rows(batch):
            plain = dict(zip(schema.names, map(_to_plain, row), strict=True))
            file.write(json.dumps(plain, ensure_ascii=False).encode("utf-8", "replace") + b"\n")


def _csv(schema: pa.Schema, batches: Iterable[pa.RecordBatch], file: BinaryIO) -> None:
    nested = [pa.types.is_nested(field.type) for field in schema]
    fields = [
        pa.field(field.name, pa.string()) if is_nested else field
        for field, is_nested in zip(schema, nested, strict=True)
    ]
    with pa.csv.CSVWriter(file, pa.schema(fields)) as writer:
        for batch in batches:
            columns = [
                pa.array(
                    [None if v is None else json.dumps(_to_plain(v)) for v in column.to_pylist()], pa.string()
                )
                if is_nested
                else column
                for column, is_nested in zip(batch.columns, nested, strict=True)
            ]
            writer.write_batch(pa.record_batch(columns, schema=pa.schema(fields)))


def _arrow(schema: pa.Schema, batches: Iterable[pa.RecordBatch], file: BinaryIO) -> None:
    with pa.ipc.new_stream(file, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)


def _parquet(schema: pa.Schema, batches: Iterable[pa.RecordBatch], file: BinaryIO) -> None:
    with pa.parquet.ParquetWriter(file, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)


FORMATS = {"table": _table, "json": _json, "csv": _csv, "arrow": _arrow, "parquet": _parquet}


def _rows(batch: pa.RecordBatch) -> Iterable[tuple[Any, ...]]:
    return zip(*(column.to_pylist() for column in batch.columns), strict=True)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _to_plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, (list, tuple)):
        return [_to_plain(one) for one in value]
    if isinstance(value, dict):
        return {name: _to_plain(one) for name, one in value.items()}
    if isinstance(value, datetime.datetime):
        return value.isoformat()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)


def _cell(value: Any) -> str:
    """One line, without control characters: what comes from a kernel must not drive a terminal."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, datetime.datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S.%f").rstrip("0").rstrip(".")
    plain = _to_plain(value)
    text = plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)
    return "".join(one if one.isprintable() else "�" for one in text)

"""`bpfleet inspect`: what is inside a `.bpf.o`, without a kernel and without root."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bpfleet import bpf_object
from bpfleet.bpf_object import BpfObject
from bpfleet.cli.inspect_content import summary, tables, to_plain
from bpfleet.errors import ObjectError
from bpfleet.schema_source import module_source

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["command", "render"]


@click.command("inspect")
@click.argument("files", metavar="FILE…", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="How to print; json is one object per file and line.",
)
@click.option("--as-schema", is_flag=True, help="Print Map(…) declarations for a collector plugin instead.")
def command(files: tuple[Path, ...], form: str, as_schema: bool) -> None:
    """Show what is inside a .bpf.o: programs, maps with their fields, global variables, sections.

    Needs no root and no kernel. Exit code 2 where a FILE is missing or malformed; the others are still shown.
    """
    if as_schema and form == "json":
        raise click.UsageError("--as-schema prints Python, so it can't be combined with --format json")
    failed = False
    for path in files:
        try:
            made = bpf_object.read(path)
        except ObjectError as error:
            click.echo(f"bpfleet: {error}", err=True)
            failed = True
            continue
        if as_schema:
            click.echo(module_source(made), nl=False)
        elif form == "json":
            click.echo(json.dumps(to_plain(made), ensure_ascii=False))
        else:
            render(made, _console())
    if failed:
        sys.exit(2)


def _console() -> Console | None:
    if not sys.stdout.isatty():
        return None
    from rich.console import Console

    return Console()


def render(made: BpfObject, console: Console | None) -> None:
    """Print an object as tables on a rich console, or as plain aligned lines where there is none."""
    if console is None:
        click.echo(summary(made))
        for table in tables(made):
            widths = [max(map(len, cells)) for cells in zip(table.columns, *table.rows, strict=True)]
            click.echo(f"\n{table.title}")
            for row in (table.columns, *table.rows):
                line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
                click.echo(f"  {line}".rstrip())
        click.echo()
        return
    from rich import box
    from rich.table import Table
    from rich.text import Text

    console.print(Text(summary(made), style="bold"))
    for table in tables(made):
        # Text, not str: names come from the file and must not be taken for markup.
        shown = Table(title=Text(table.title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for column in table.columns:
            shown.add_column(column, overflow="fold")
        for row in table.rows:
            shown.add_row(*(Text(cell) for cell in row))
        console.print(shown)

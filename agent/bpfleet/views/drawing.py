"""A grid of text on a terminal or in a pipe: aligned, no wider than asked, coloured by rich where wanted."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from bpfleet.views.units import shown_width

__all__ = ["Grid", "Look", "draw", "line", "look_for"]

_GAP = "  "
_NARROWEST = 8
_WIDEST = 60
_ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"
_ASCII = str.maketrans(
    {"\N{EN DASH}": "-", "\N{MICRO SIGN}": "u", _ELLIPSIS: "~", "\N{RIGHTWARDS ARROW}": ">"}
)


@dataclass(frozen=True, slots=True)
class Look:
    """How text is shown."""

    rows: int = 10
    """Rows per snapshot."""
    width: int | None = None
    """Columns of the terminal; None: as wide as it gets."""
    color: bool = False
    """Escape codes for colour (needs rich); without it there are none at all."""
    ascii: bool = False
    """Nothing beyond ASCII."""


def look_for(fd: int, *, rows: int = 10, color: bool | None = None) -> Look:
    """What suits the terminal, pipe or file at `fd`; `color` None: on a terminal without NO_COLOR."""
    terminal = os.isatty(fd)
    if color is None:
        color = terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    encoding = (getattr(sys.stdout, "encoding", None) or "ascii").lower().replace("-", "")
    width = os.get_terminal_size(fd).columns if terminal else 0
    return Look(rows=rows, width=width or None, color=color, ascii=encoding != "utf8")


@dataclass
class Strip:
    """One column of a grid: its head and cells."""

    head: str
    cells: Sequence[Any]
    right: bool
    shrinks: bool
    """Whether cells may be cut where the grid is too wide."""
    drawn: Callable[..., str] | None
    """Makes text of a cell, told whether only ASCII may be used."""
    widest: int = _WIDEST
    """Columns that it takes at most, where it shrinks."""


@dataclass
class Grid:
    """A title, a warning, columns of equal length, a foot."""

    title: Sequence[str]
    warning: str = ""
    foot: str = ""
    strips: list[Strip] = field(default_factory=list)

    def add(
        self,
        head: str,
        cells: Sequence[Any],
        *,
        right: bool = True,
        shrinks: bool = False,
        drawn: Callable[..., str] | None = None,
        widest: int = _WIDEST,
    ) -> None:
        """Add a column."""
        self.strips.append(Strip(head, cells, right, shrinks, drawn, widest))


def draw(grid: Grid, look: Look) -> str:
    """The grid as lines."""
    columns = [_texts(strip, look) for strip in grid.strips]
    widths = _widths(grid.strips, columns, look)
    lines = []
    if columns and len(columns[0]) > 1:
        for at in range(len(columns[0])):
            cells = [
                _padded(column[at], width, strip.right)
                for strip, column, width in zip(grid.strips, columns, widths, strict=True)
            ]
            lines.append((_GAP + _GAP.join(cells)).rstrip())
    foot = [line(_GAP + grid.foot, look)] if grid.foot else []
    title = [_fit(part, look) for part in grid.title]
    warning = _fit(grid.warning, look)
    if look.color:
        return _coloured(title, warning, lines, foot)
    first = _GAP.join([*title, *([warning] if warning else [])])
    return "\n".join([first, *lines, *foot]) + "\n"


def line(text: str, look: Look) -> str:
    """One line of text in the characters that `look` allows."""
    return _fit(text, look)


def _fit(text: str, look: Look) -> str:
    if not look.ascii or text.isascii():
        return text
    return text.translate(_ASCII).encode("ascii", "backslashreplace").decode()


def _texts(strip: Strip, look: Look) -> list[str]:
    """Head and cells of a column as text."""
    drawn = strip.drawn
    cells = [drawn(cell, ascii=look.ascii) if drawn else str(cell) for cell in strip.cells]
    return [_fit(text, look) for text in (strip.head, *cells)]


def _widths(strips: Sequence[Strip], columns: Sequence[list[str]], look: Look) -> list[int]:
    """Each column's width; those that shrink give way until the whole fits, the widest first."""
    widths = [max(map(shown_width, column), default=0) for column in columns]
    for at, strip in enumerate(strips):
        if strip.shrinks:
            widths[at] = min(widths[at], strip.widest)
    if look.width is None:
        return widths
    shrinking = [at for at, strip in enumerate(strips) if strip.shrinks]
    over = sum(widths) + len(_GAP) * len(widths) - look.width
    while over > 0 and shrinking:
        widest = max(shrinking, key=lambda at: widths[at])
        if widths[widest] <= _NARROWEST:
            break
        widths[widest] -= 1
        over -= 1
    return widths


def _padded(text: str, width: int, right: bool) -> str:
    size = shown_width(text)
    if size > width:
        mark = "~" if text.isascii() else _ELLIPSIS
        while text and shown_width(text) >= width:
            text = text[:-1]
        text += mark
        size = shown_width(text)
    blank = " " * (width - size)
    return blank + text if right else text + blank


def _coloured(title: Sequence[str], warning: str, lines: Sequence[str], foot: Sequence[str]) -> str:
    """The same lines with styles; rich is imported only here."""
    from io import StringIO

    from rich.console import Console
    from rich.text import Text

    console = Console(
        file=StringIO(), force_terminal=True, color_system="standard", width=1 << 16, highlight=False
    )
    first = Text(title[0], style="bold cyan")
    for part in title[1:]:
        first.append(_GAP + part, style="not bold default")
    if warning:
        first.append(_GAP + warning, style="bold red")
    styled = [first]
    styled += [Text(text, style="bold" if at == 0 else "") for at, text in enumerate(lines)]
    styled += [Text(text, style="dim") for text in foot]
    with console.capture() as captured:
        for text in styled:
            console.print(text, soft_wrap=True)
    return captured.get()

"""Results as plain aligned tables, and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Table", "megabytes", "si"]


@dataclass
class Table:
    """Rows of cells under headings; the first `texts` columns are text, the others are right-aligned.

    `data` holds the same results as numbers, for `--json`.
    """

    title: str
    headings: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    data: list[dict[str, Any]] = field(default_factory=list)
    texts: int = 1

    def __str__(self) -> str:
        widths = [max(map(len, column)) for column in zip(self.headings, *self.rows, strict=True)]
        lines = [self.title, ""]
        for row in (self.headings, ["-" * width for width in widths], *self.rows):
            cells = [
                cell.ljust(width) if index < self.texts else cell.rjust(width)
                for index, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            lines.append("  " + "  ".join(cells).rstrip())
        lines += [f"  * {note}" for note in self.notes]
        return "\n".join(lines) + "\n"

    def to_plain(self) -> dict[str, Any]:
        """The table for JSON."""
        return {"title": self.title, "results": self.data, "notes": self.notes}


def si(number: float) -> str:
    """A number in three or four digits with k, M or G: 1234567 → `1.23 M`."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= limit:
            return (
                f"{number / limit:.3g} {unit}"
                if abs(number) < 1000 * limit
                else f"{number / limit:.0f} {unit}"
            )
    return f"{number:.3g}"


def megabytes(size: float) -> str:
    """Bytes in MB (10^6)."""
    return f"{size / 1e6:.1f} MB"

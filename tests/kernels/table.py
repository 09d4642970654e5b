"""docs/kernels.md from what the tests recorded: `make kernels-table` after `make test-kernels`.

`tests/kernels/results/VERSION.json` holds, for each table, the cells of one kernel.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["PAGE", "RESULTS", "Cells", "differences", "facts_of", "marked", "render", "results"]

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PAGE = HERE.parents[1] / "docs" / "kernels.md"
TABLES = {"collectors": "collector", "attach": "kind", "maps": "map", "ladders": "alternatives"}
"""Every table, and the head of its first column."""

Cells = dict[str, dict[str, str]]
"""Table → row → cell."""


def facts_of(file: Path) -> Cells:
    """The cells that a run wrote down; of two for one place, the later."""
    cells: Cells = {table: {} for table in TABLES}
    for line in file.read_text().splitlines():
        one = json.loads(line)
        cells[one["table"]][one["row"]] = one["cell"]
    return cells


def results() -> dict[str, Cells]:
    """Version → what is recorded of it, oldest kernel first."""
    files = sorted(RESULTS.glob("*.json"), key=lambda one: [int(part) for part in one.stem.split(".")])
    return {file.stem: json.loads(file.read_text()) for file in files}


def render(table: str, recorded: Mapping[str, Cells]) -> str:
    """One table as Markdown: a row for each thing, a column for each kernel."""
    rows = list(dict.fromkeys(row for cells in recorded.values() for row in cells[table]))
    lines = [_line([TABLES[table], *recorded]), _line(["---"] * (1 + len(recorded)))]
    for row in rows:
        name = row if " " in row else f"`{row}`"
        lines.append(_line([name, *(cells[table].get(row, "not tried") for cells in recorded.values())]))
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def marked(table: str) -> re.Pattern[str]:
    """Where a table stands in the page: between two comments."""
    return re.compile(rf"(<!-- {table} -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def differences(version: str, found: Cells) -> list[str]:
    """What the page says otherwise than a run found; cells that only one of them has don't count."""
    said = results().get(version, {})
    return [
        f"{table}, {row}, {version}: the page says {_said(said, table, row)!r}, found {cell!r}"
        for table, rows in found.items()
        for row, cell in rows.items()
        if _said(said, table, row) not in (cell, "nothing")
    ]


def _said(cells: Cells, table: str, row: str) -> str:
    return cells.get(table, {}).get(row, "nothing")


def main() -> int:
    RESULTS.mkdir(exist_ok=True)
    for file in sorted((HERE.parents[1] / "build" / "kernels").glob("*/facts.jsonl")):
        version = ".".join(file.parent.name.split(".")[:2])
        text = json.dumps(facts_of(file), indent=1, ensure_ascii=False)
        (RESULTS / f"{version}.json").write_text(text + "\n")
    page, recorded = PAGE.read_text(), results()
    for table in TABLES:
        text = render(table, recorded)
        page = marked(table).sub(lambda found, text=text: found[1] + text + found[3], page)  # type: ignore[misc]
    PAGE.write_text(page)
    print(f"{PAGE}: kernels {', '.join(recorded)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

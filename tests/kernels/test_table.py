"""docs/kernels.md shows what was recorded, whole."""

from __future__ import annotations

import pytest

from probes import PROBES
from running import BUILT_IN
from table import PAGE, TABLES, differences, marked, render, results


@pytest.mark.parametrize("table", TABLES)
def test_the_page_shows_what_was_recorded(table: str) -> None:
    (shown,) = marked(table).finditer(PAGE.read_text())
    assert shown[2] == render(table, results())


def test_every_kernel_has_its_column_and_no_cell_is_empty() -> None:
    recorded = results()
    assert {"6.1", "6.12"} <= set(recorded)
    for version, cells in recorded.items():
        assert set(cells) == set(TABLES)
        assert set(cells["attach"]) <= set(PROBES), version
        assert set(cells["collectors"]) <= set(BUILT_IN), version
        for rows in cells.values():
            assert all(cell and cell != "no" for cell in rows.values())
    assert {row for cells in recorded.values() for row in cells["attach"]} == set(PROBES)


def test_a_cell_that_a_run_finds_otherwise_is_told() -> None:
    said = results()["6.1"]["attach"]["kprobe"]
    assert differences("6.1", {"attach": {"kprobe": said}}) == []
    (told,) = differences("6.1", {"attach": {"kprobe": "no more"}})
    assert told == "attach, kprobe, 6.1: the page says 'yes', found 'no more'"

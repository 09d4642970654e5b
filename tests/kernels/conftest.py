"""One agent with everything that is to be seen on a kernel, and where what was seen is written down."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))

from running import Running

Record = Callable[[str, str, str], None]
HERE = Path(__file__).parent
runs: list[Running] = []


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The agent, sealed and ticking, until the tests of this folder have ended."""
    made = Running(tmp_path_factory.mktemp("kernel"))
    runs.append(made)
    try:
        made.wait_until_sealed()
        yield made
    finally:
        stop_all()


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Tests of other folders want the loopback interface for themselves."""
    if nextitem is None or HERE not in nextitem.path.parents:
        stop_all()


def stop_all() -> None:
    while runs:
        runs.pop().stop()


@pytest.fixture(scope="session")
def record() -> Record:
    """`record(table, row, cell)` writes down one cell of docs/kernels.md, where that is asked for."""
    place = os.environ.get("BPFLEET_KERNEL_FACTS")

    def write(table: str, row: str, cell: str) -> None:
        if place:
            with open(place, "a") as file:
                file.write(json.dumps({"table": table, "row": row, "cell": cell}) + "\n")

    return write

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


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The agent, sealed and ticking."""
    made = Running(tmp_path_factory.mktemp("kernel"))
    try:
        made.wait_until_sealed()
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="session")
def record() -> Record:
    """`record(table, row, cell)` writes down one cell of docs/kernels.md, where that is asked for."""
    place = os.environ.get("BPFLEET_KERNEL_FACTS")

    def write(table: str, row: str, cell: str) -> None:
        if place:
            with open(place, "a") as file:
                file.write(json.dumps({"table": table, "row": row, "cell": cell}) + "\n")

    return write

"""What every `.bpf.c` shares: headers, and the agent's own programs."""

from __future__ import annotations

from pathlib import Path

__all__ = ["DRAIN", "INCLUDE", "MAPPINGS", "SNAPSHOT", "STORAGE"]

INCLUDE = Path(__file__).with_name("include")
"""The directory that `#include <bpfleet/…>` is found in."""

SNAPSHOT = Path(__file__).with_name("snapshot.bpf.c")
"""The source of the snapshot program."""

DRAIN = Path(__file__).with_name("drain.bpf.c")
"""The source of the drain program."""

MAPPINGS = Path(__file__).with_name("mappings.bpf.c")
"""The source of the program that tells which files processes run."""

STORAGE = {
    kind: Path(__file__).with_name(f"{kind}.bpf.c") for kind in ("task_storage", "sk_storage", "cgrp_storage")
}
"""The sources of the programs that go through local storage, by the kind of map."""

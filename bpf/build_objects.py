"""hatchling's build hook: compiles every `.bpf.c` of libbpf's dialect, so that wheels carry `.bpf.o`.

An editable install compiles too, in place; a checkout recompiles on its own what has changed since
(`bpfleet.loader.compile`).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class BuildObjects(BuildHookInterface):  # type: ignore[type-arg]
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = Path(self.root)
        sys.path[:0] = [str(root / "agent"), str(root / "bpf")]
        from bpfleet.loader.compile import core_sources, object_for

        for source in core_sources(root / "plugins", root / "bpf"):
            made = object_for(source)
            for path in (made, made.with_name(made.name + ".inputs")):
                build_data["artifacts"].append(f"/{path.relative_to(root)}")

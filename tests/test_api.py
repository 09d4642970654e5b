"""What `bpfleet` exports, and who may import whom."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import bpfleet
from bpfleet import errors

ROOT = Path(__file__).parent.parent
AGENT = ROOT / "agent" / "bpfleet"


def test_the_exported_names_are_these() -> None:
    assert bpfleet.__all__ == sorted(bpfleet.__all__)
    assert set(bpfleet.__all__) == set(bpfleet._MODULE)
    for name in bpfleet.__all__:
        assert getattr(bpfleet, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        bpfleet.nonsense  # noqa: B018 - looking it up is the test


def imported_by(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_bpfleet_costs_nothing_much() -> None:
    assert not imported_by("import bpfleet") & {"numpy", "msgspec", "pluggy", "msgpack", "click", "zmq"}


def test_the_supervisor_stays_small_and_sees_no_plugin() -> None:
    there = imported_by("import bpfleet.supervisor.__main__")
    assert not there & {
        "numpy",
        "msgspec",
        "pluggy",
        "click",
        "zmq",
        "rich",
        "bpfleet.plugins",
        "bpfleet.wire",
    }
    assert not [name for name in there if name.startswith("bpfleet_plugins")]


def test_the_worker_does_not_import_what_only_loaders_need() -> None:
    there = imported_by("import bpfleet.worker.__main__")
    assert not there & {"bcc", "click", "rich", "zmq", "bpfleet.loader.libbpf", "bpfleet.supervisor"}


def imports(path: Path) -> set[str]:
    """Modules of ours that a file imports when it is itself imported; types only do not count."""
    found: set[str] = set()

    def visit(nodes: list[ast.stmt]) -> None:
        for node in nodes:
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                continue
            if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                found.add(node.module)
                found.update(f"{node.module}.{alias.name}" for alias in node.names)
            elif isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)

    visit(ast.parse(path.read_text()).body)
    return found


def module_name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_no_module_imports_itself_by_a_detour() -> None:
    files = {module_name(path, AGENT.parent): path for path in AGENT.rglob("*.py")}
    edges = {name: imports(path) & files.keys() - {name} for name, path in files.items()}
    done: set[str] = set()

    def visit(name: str, way: list[str]) -> None:
        assert name not in way, " → ".join([*way, name])
        if name not in done:
            for other in edges[name]:
                visit(other, [*way, name])
            done.add(name)

    for name in edges:
        visit(name, [])


def test_built_in_plugins_import_only_what_a_third_party_can() -> None:
    public = {"bpfleet", "bpfleet.errors", "bpfleet.wire", "bpfleet.views", "bpfleet.settings"}
    for path in (ROOT / "plugins").rglob("*.py"):
        for name in imports(path):
            if name.startswith("bpfleet") and not name.startswith("bpfleet_plugins"):
                top = ".".join(name.split(".")[:2])
                assert top in public or (
                    name.partition(".")[0] == "bpfleet" and hasattr(bpfleet, top.partition(".")[2])
                ), (path, name)


def test_the_tree_of_errors_is_the_one_that_is_printed() -> None:
    printed = errors.__doc__ or ""
    for name in errors.__all__:
        assert name in printed, name
        assert getattr(errors, name).__doc__.startswith(("Raised", "Base")), name

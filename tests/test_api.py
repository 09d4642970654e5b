"""The plugin API's names, and which part of the agent may import which."""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import pytest

import bpfleet
from agent_process import run
from bpfleet import errors, hooks
from bpfleet.errors import BpfleetError
from distributions import distribution

ROOT = Path(__file__).parent.parent
AGENT = ROOT / "agent"

EXPORTED = [
    "Attach",
    "BpfleetError",
    "Collector",
    "CollectorSettings",
    "ConfigError",
    "Decoder",
    "Duration",
    "Field",
    "Fold",
    "Frame",
    "Map",
    "Meaning",
    "Program",
    "Received",
    "Sink",
    "SinkContext",
    "SinkError",
    "SinkFull",
    "SinkGone",
    "SinkSettings",
    "SinkType",
    "Size",
    "Store",
    "StoreContext",
    "StoreError",
    "StoreReader",
    "StoreSettings",
    "StoreType",
    "SysFiles",
    "WireError",
    "bcc",
    "core",
    "counter",
    "gauge",
    "histogram",
    "hookimpl",
    "kernel_enum",
    "label",
    "padding",
    "stack",
    "struct",
    "timestamp",
]
"""What plugins may rely on. A name that goes, or changes its meaning, needs a new major version of
the API."""


def hook_names() -> list[str]:
    return [name for name in vars(hooks.Hooks) if name.startswith("bpfleet_")]


# ---- names


def test_the_exported_names_are_these() -> None:
    assert bpfleet.__all__ == EXPORTED


def test_dir_shows_every_exported_name() -> None:
    assert set(EXPORTED) <= set(dir(bpfleet))


def test_a_name_that_is_not_exported_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Colector'"):
        bpfleet.Colector  # noqa: B018


@pytest.mark.parametrize("name", EXPORTED)
def test_every_exported_name_has_a_docstring(name: str) -> None:
    made = getattr(bpfleet, name)
    if name == "hookimpl":  # an object of pluggy's: the words stand below it in the source
        assert '"""Marks a function of a plugin' in inspect.getsource(hooks)
        return
    assert inspect.getdoc(made)
    # What a dataclass writes by itself is no docstring.
    assert not (inspect.getdoc(made) or "").startswith(f"{name}(")


@pytest.mark.parametrize("name", EXPORTED)
def test_every_exported_name_is_public_where_it_is_made(name: str) -> None:
    module = sys.modules[f"bpfleet.{bpfleet._MODULE[name]}"]
    assert name in module.__all__
    assert getattr(module, name) is getattr(bpfleet, name)


def test_importing_bpfleet_imports_no_other_library() -> None:
    code = "import bpfleet, json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = json.loads(done.stdout)
    assert "bpfleet" in loaded
    assert not {"numpy", "msgspec", "msgpack", "pluggy", "click", "bpfleet.spec"} & set(loaded)


# ---- modules


@cache
def modules() -> dict[str, Path]:
    """Name → file of every module of the agent."""
    found = {}
    for path in sorted((AGENT / "bpfleet").rglob("*.py")):
        name = ".".join(path.relative_to(AGENT).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    return found


def test_every_module_has_a_docstring_and_sorted_names() -> None:
    for name, path in modules().items():
        tree = ast.parse(path.read_text())
        assert ast.get_docstring(tree), name
        for node in tree.body:
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
                names = ast.literal_eval(node.value)
                # As ruff sorts: CONSTANTS, Classes, functions.
                order = sorted(names, key=lambda n: (not n.isupper(), not n[0].isupper(), n))
                assert names == order, name


def test_modules_are_read_at_one_sitting() -> None:
    for part in ("agent", "plugins", "bpf", "aggregator"):
        for path in (ROOT / part).rglob("*.py"):
            assert len(path.read_text().splitlines()) < 300, path


# ---- errors


def printed_tree() -> dict[str, str]:
    """Class → base, as the tree in the docstring of bpfleet.errors has them."""
    found: dict[str, str] = {}
    above: dict[int, str] = {}
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"(\s*[│ ]*(?:[├└]── )?)([A-Z]\w+)(?:\s{2,}|$)", line)
        if match:
            depth = len(match.group(1)) // 4
            above[depth] = match.group(2)
            found[match.group(2)] = above.get(depth - 1, "Exception")
    return found


def error_classes(base: type[BpfleetError] = BpfleetError) -> Iterator[type[BpfleetError]]:
    yield base
    for sub in base.__subclasses__():
        if sub.__module__ == "bpfleet.errors":
            yield from error_classes(sub)


def test_the_tree_printed_in_errors_is_that_of_the_classes() -> None:
    assert printed_tree() == {one.__name__: one.__base__.__name__ for one in error_classes() if one.__base__}


def test_every_error_is_exported_and_says_when_it_is_raised() -> None:
    names = [one.__name__ for one in error_classes()]
    assert sorted(names) == errors.__all__
    for one in error_classes():
        if one is not BpfleetError:
            doc = inspect.getdoc(one) or ""
            assert doc.startswith("Raised "), one
            assert "\n" not in doc, one


def test_an_error_crosses_a_process_boundary_whole() -> None:
    for one in error_classes():
        made = BpfleetError.from_plain(json.loads(json.dumps(one("what", where="w", remedy="r").to_plain())))
        assert (type(made), str(made)) == (one, "what\n  where:  w\n  remedy: r")


# ---- hooks


@pytest.mark.parametrize("name", hook_names())
def test_every_hook_has_one_line_of_docstring_a_place_in_the_docs_and_a_test(name: str) -> None:
    doc = inspect.getdoc(getattr(hooks.Hooks, name)) or ""
    assert doc
    assert "\n" not in doc
    assert f"`{name}" in (ROOT / "docs" / "plugins.md").read_text()
    tests = [path.read_text() for path in (ROOT / "tests").rglob("*.py")]
    assert any(f"def {name}(" in text for text in tests), "no test implements it"


def test_a_plugin_adds_a_subcommand(tmp_path: Path) -> None:
    environment = distribution(
        tmp_path,
        "greeter",
        {"cli.greet": "greeter"},
        """
        import click
        import bpfleet

        @bpfleet.hookimpl
        def bpfleet_cli(app):
            @app.command("greet")
            @click.option("--name", default="world")
            def greet(name):
                "Greet somebody."
                click.echo(f"hello {name}")
        """,
    )
    environment = {**os.environ, **environment}
    assert "From greeter 1.0." in run("--help", env=environment).stdout
    done = run("greet", "--name", "fleet", env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "hello fleet\n", "")


STORE = """
from bpfleet import StoreSettings, StoreType, hookimpl

class Settings(StoreSettings, frozen=True, kw_only=True):
    rows: int = 10

@hookimpl
def bpfleet_stores():
    return [StoreType(name="memory", help="Rows in memory.", open=print, read=print, settings=Settings)]
"""


def test_a_plugin_offers_a_store(tmp_path: Path) -> None:
    environment = {**os.environ, **distribution(tmp_path, "memory", {"store.memory": "memory"}, STORE)}
    code = "from bpfleet.plugins import Plugins; print(Plugins().store_type('memory').settings().rows)"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("10\n", "")


LABELS = """
import bpfleet

@bpfleet.hookimpl
def bpfleet_host_labels(facts):
    return {"rack": "r7", "machine": facts["machine"], "fact_names": " ".join(sorted(facts))}
"""


def test_labels_of_plugins_are_in_every_status_and_the_configurations_win(
    start_agent: Any, tmp_path: Path
) -> None:
    environment = distribution(tmp_path, "racks", {"labels.racks": "racks"}, LABELS)
    agent = start_agent(
        '[agent]\nhost_labels = ["racks"]\nlabels = { rack = "r8", site = "north" }\n[collectors.execve]',
        **environment,
    )
    assert agent.status()["labels"] == {
        "rack": "r8",
        "site": "north",
        "machine": os.uname().machine,
        "fact_names": "boot_id host kernel machine",
    }


# ---- who imports whom


@dataclass(frozen=True)
class Import:
    """One import: of what, and whether only when a function is called."""

    name: str
    late: bool


def imports(path: Path) -> Iterator[Import]:
    """What a file imports; not what it names for type checkers only. `from bpfleet import Map` counts as
    an import of the module where `Map` is made."""

    def inside(node: ast.AST, late: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                continue
            if isinstance(child, ast.Import):
                yield from (Import(one.name, late) for one in child.names)
            elif isinstance(child, ast.ImportFrom):
                yield from (Import(_home(child.module or "", one.name), late) for one in child.names)
            yield from inside(child, late or isinstance(child, ast.FunctionDef | ast.Lambda))

    return inside(ast.parse(path.read_text()), False)


def _home(module: str, name: str) -> str:
    if f"{module}.{name}" in modules():
        return f"{module}.{name}"
    if module == "bpfleet" and name in bpfleet._MODULE:
        return f"bpfleet.{bpfleet._MODULE[name]}"
    return module


def room(module: str) -> str:
    """`supervisor` of `bpfleet.supervisor.launch`; `numpy` of `numpy.typing`."""
    parts = module.split(".")
    return parts[1] if parts[0] == "bpfleet" and len(parts) > 1 else parts[0]


def imported_by(rooms: str) -> set[str]:
    """What the modules of these rooms import, as rooms; early or late, without the standard library."""
    found = set()
    for name, path in modules().items():
        if room(name) in rooms.split():
            found |= {room(one.name) for one in imports(path)} - {room(name)}
    return found - set(sys.stdlib_module_names)


OBJECT_FILES = (
    "elf btf btf_types btf_layout btf_maps dwarf dwarf_structs bpf_object attach_points checked_bytes"
)


@pytest.mark.parametrize(
    ("rooms", "allowed"),
    [
        # Root, and long-lived: nothing that is not its own.
        ("supervisor", "errors ipc kernel users msgpack"),
        # Root, and short-lived: no configuration, no plugin, no sink.
        (
            "loader",
            "errors kernel map_entries ipc schema events layout spec sys_files protocol bpfleet_bpf bcc"
            " bpf_object btf elf attach_points checked_bytes packing",
        ),
        # No privileges: reads by fd, and can neither compile nor load.
        (
            "worker",
            "bpfleet errors kernel ipc schema layout settings spec sys_files protocol"
            " wire reading draining symbols config identity plugins checking packing map_entries"
            " numpy msgspec",
        ),
        ("reading", "errors kernel schema layout wire numpy"),
        ("draining", "events kernel layout protocol reading numpy"),
        ("symbols", "kernel numpy"),
        # Needs no kernel: an aggregator uses it too.
        ("wire", "errors layout schema msgpack msgspec numpy zstandard"),
        ("views", "errors wire msgspec numpy rich"),
        # Plain data, for plugins, tests and documentation.
        ("errors", ""),
        ("schema", "errors"),
        ("events", "layout schema"),
        ("layout", "schema"),
        ("packing", "errors schema layout checked_bytes"),
        ("map_entries", "kernel"),
        ("settings", "errors msgspec"),
        ("users", "errors"),
        ("sys_files", "msgspec"),
        ("spec", "errors schema settings sys_files"),
        ("stores", "settings msgspec"),
        ("hooks", "pluggy"),
        ("protocol", "schema layout sys_files msgspec"),
        ("config", "errors settings msgspec"),
        ("plugins", "errors hooks spec stores pluggy"),
        # Reads files; needs no kernel either.
        (
            OBJECT_FILES,
            f"errors schema layout packing {OBJECT_FILES}",
        ),
        ("kernel_enums", "errors btf btf_types"),
        ("schema_source", "errors schema events layout bpf_object loader"),
        ("kernel", ""),
        ("ipc", "msgpack"),
        ("identity", "errors wire"),
        ("keys", "errors"),
        ("checking", "errors plugins worker rich"),
        # Tries what the agent does; nothing depends on it but its command.
        (
            "doctor",
            "errors kernel schema layout btf_types config plugins reading loader supervisor users"
            " bpfleet_bpf",
        ),
    ],
)
def test_a_room_imports_only_what_it_may(rooms: str, allowed: str) -> None:
    assert imported_by(rooms) <= set(allowed.split())


def test_only_the_command_line_imports_the_command_line() -> None:
    for name, path in modules().items():
        if room(name) != "cli":
            assert "cli" not in {room(one.name) for one in imports(path)}, name


@pytest.mark.parametrize(
    ("library", "rooms"),
    [
        ("bcc", "loader"),
        ("click", "cli"),
        ("pluggy", "hooks plugins"),
        ("numpy", "draining reading symbols wire views worker"),
        ("zmq", "cli"),
    ],
)
def test_a_library_is_used_where_it_belongs(library: str, rooms: str) -> None:
    users = {
        room(name) for name, path in modules().items() if library in {room(one.name) for one in imports(path)}
    }
    assert users == set(rooms.split())


def test_no_modules_import_one_another_in_a_circle() -> None:
    graph = {
        name: {one.name for one in imports(path)} & modules().keys() - {name}
        for name, path in modules().items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" → ".join(error.args[1]))


def test_the_supervisor_process_has_no_plugin_and_no_large_library_in_memory() -> None:
    code = "import bpfleet.supervisor.__main__, json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout))
    assert "bpfleet.supervisor.loading" in loaded
    for name in ("numpy", "msgspec", "click", "pluggy", "zmq", "bpfleet.plugins", "bpfleet_plugins"):
        assert name not in loaded


def test_the_worker_process_has_no_compiler_and_no_command_line_in_memory() -> None:
    code = "import bpfleet.worker.__main__, json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout))
    assert "bpfleet.worker.tick" in loaded
    for name in ("bcc", "click", "rich", "zmq", "bpfleet.loader", "bpfleet.supervisor", "bpfleet_plugins"):
        assert name not in loaded


def test_every_room_has_its_rule() -> None:
    """So that a new one is thought about."""
    (mark,) = [
        one
        for one in test_a_room_imports_only_what_it_may.pytestmark  # type: ignore[attr-defined]
        if one.name == "parametrize"
    ]
    ruled = {name for rooms, _ in mark.args[1] for name in rooms.split()}
    there = {room(name) for name in modules()} - {"bpfleet", "cli"}
    assert ruled == there


PUBLIC = {"errors", "hooks", "kernel_enums", "keys", "schema", "settings", "spec", "stores", "wire", "views"}
"""The agent's modules that plugins may import besides `bpfleet` itself."""


def plugin_files() -> list[Path]:
    found = [*(ROOT / "plugins").rglob("*.py"), *(ROOT / "tests/third_party").rglob("*.py")]
    assert len(found) > 10
    return found


@pytest.mark.parametrize("path", plugin_files(), ids=lambda path: path.stem)
def test_a_plugin_imports_of_the_agent_only_what_is_public(path: Path) -> None:
    for one in imports(path):
        if one.name == "bpfleet" or one.name.startswith("bpfleet."):
            assert room(one.name) in PUBLIC, f"{path} imports {one.name}"


def test_the_aggregator_imports_of_the_agent_what_is_public_and_what_finds_plugins_and_users() -> None:
    files = list((ROOT / "aggregator").rglob("*.py"))
    assert len(files) > 10
    for path in files:
        for one in imports(path):
            if one.name == "bpfleet" or one.name.startswith("bpfleet."):
                assert room(one.name) in PUBLIC | {"plugins", "users"}, f"{path} imports {one.name}"


def test_no_modules_of_the_aggregator_import_one_another_in_a_circle() -> None:
    files = {
        ".".join(path.relative_to(ROOT / "aggregator").with_suffix("").parts).removesuffix(".__init__"): path
        for path in (ROOT / "aggregator").rglob("*.py")
    }

    def resolved(path: Path) -> Iterator[str]:
        """A submodule named after `import` is what is imported, not the package around it."""
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                for one in node.names:
                    inner = f"{node.module}.{one.name}"
                    yield inner if inner in files else node.module or ""

    graph = {name: {one for one in resolved(path) if one in files} - {name} for name, path in files.items()}
    TopologicalSorter(graph).prepare()

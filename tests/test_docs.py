"""The documentation says what the code does: settings, commands, fields, messages, links, examples."""

from __future__ import annotations

import ast
import importlib.util
import itertools
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click
import msgspec
import pytest

import bpfleet
from agent_process import Agent, run
from bpfleet import config, kernel, settings
from bpfleet.cli import app
from bpfleet.events import DRAINED
from bpfleet.loader.__main__ import _READABLE
from bpfleet.loader.snapshot_program import _WALKABLE
from bpfleet.plugins import Plugins, State
from bpfleet.reading.ladder import _BATCH_TYPES, METHODS
from bpfleet.schema import Fold, Map, Meaning
from bpfleet.settings import CollectorSettings, Duration, SinkSettings, Size
from bpfleet.spec import Collector
from bpfleet.stores import StoreSettings
from bpfleet.worker.file_collectors import file_collector
from bpfleet_aggregator import config as aggregator_config
from bpfleet_aggregator.config import AggregatorSettings
from bpfleet_aggregator.stores.clickhouse.settings import ClickhouseSettings
from bpfleet_aggregator.stores.duckdb.settings import DuckdbSettings
from distributions import distribution

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
THIRD_PARTY = ROOT / "tests" / "third_party"
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(DOCS.glob("*.md"))
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


# ---- pages in pieces


@dataclass(frozen=True)
class Block:
    """A block of code: ```LANGUAGE TITLE, or four spaces (then the language is empty)."""

    language: str
    title: str
    text: str


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    fence = re.compile(r"^( *)```(\w+)(?: (\S[^\n]*))?\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
    found = [
        Block(m.group(2), m.group(3) or "", _unindented(m.group(4), m.group(1))) for m in fence.finditer(text)
    ]
    rest = fence.sub("", text)
    for match in re.finditer(r"(?<=\n\n)((?: {4}.*\n|\n(?= {4}))+)", rest):
        found.append(Block("", "", _unindented(match.group(1), "    ")))
    return found


def _unindented(text: str, indent: str) -> str:
    return "".join(line.removeprefix(indent) for line in text.splitlines(keepends=True))


def section(page: str, heading: str) -> str:
    """What stands below a heading of a page, up to the next one of its level."""
    level = len(heading.partition(" ")[0])
    found: list[str] | None = None
    in_code = False
    for line in (DOCS / page).read_text().splitlines(keepends=True):
        in_code ^= line.lstrip().startswith("```")
        if line.rstrip("\n") == heading:
            found = []
        elif found is not None:
            if not in_code and re.match(rf"#{{1,{level}}} ", line):
                break
            found.append(line)
    assert found is not None, f"{page} has no heading {heading!r}"
    return "".join(found)


def rows(text: str) -> list[list[str]]:
    """The cells of every table row, without the heads."""
    found = []
    lines = [*text.splitlines(), ""]
    for line, following in itertools.pairwise(lines):
        if line.startswith("|") and not line.startswith("| ---") and not following.startswith("| ---"):
            cells = re.split(r"(?<!\\)\|", line)[1:-1]
            found.append([cell.strip().replace("\\|", "|") for cell in cells])
    return found


# ---- every page


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives a page's headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    found = set()
    for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE):
        found.add(re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-"))
    return found


@every_page
def test_every_link_leads_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?:", target):
            continue
        name, _, anchor = target.partition("#")
        there = page.parent / name if name else page
        assert there.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in anchors(there), f"{page.name} links to {target}"


def test_every_page_is_in_the_index() -> None:
    index = (DOCS / "README.md").read_text()
    for page in DOCS.glob("*.md"):
        assert f"({page.name})" in index or page.name == "README.md", page.name


@pytest.mark.parametrize(
    # Not commands, collectors and configuration: they have a section for each one, which is looked up.
    "name",
    ["README", "plugins", "architecture", "reading"],
)
def test_a_page_is_read_at_one_sitting(name: str) -> None:
    text = (DOCS / f"{name}.md").read_text()
    # Collectors of which there is nothing to say are not read.
    lines = re.sub(
        r"^### .*\n\nIt has no settings of its own.\n\n", "", text, flags=re.MULTILINE
    ).splitlines()
    if name == "architecture":  # its table of every module is looked up
        lines = [line for line in lines if not line.startswith("| `")]
    assert len(lines) < 250


@every_page
def test_no_page_shows_the_machine_that_it_was_written_on(page: Path) -> None:
    release = os.uname().release
    if "-" in release:  # a bare version number is nobody's
        assert release not in page.read_text()


@cache
def model_of(kind: str, name: str) -> type[Any]:
    """The settings model of a collector or sink type, installed or in tests/third_party."""
    if "/" in name:
        return CollectorSettings
    if name in ("opens", "lines"):
        module = third_party({"opens": "collector", "lines": "sink"}[name])
        (made,) = module.bpfleet_collectors() if name == "opens" else module.bpfleet_sinks()
        return made.settings  # type: ignore[no-any-return]
    plugins = Plugins()
    return (plugins.collector(name) if kind == "collectors" else plugins.sink_type(name)).settings


def third_party(name: str) -> Any:
    path = THIRD_PARTY / "src" / "bpfleet_opens" / f"{name}.py"
    found = importlib.util.spec_from_file_location(f"shown_{name}", path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[module.__name__] = module
    found.loader.exec_module(module)
    return module


def configurations(page: Path) -> list[str]:
    shown = re.compile(r"\[(agent|collectors\.|sinks\.)")
    return [
        one.text
        for one in blocks(page)
        if (one.language == "toml" or (one.language == "" and shown.match(one.text))) and not one.title
    ]


@every_page
def test_every_configuration_shown_is_right(page: Path) -> None:
    for text in configurations(page):
        if "[store." in text or "[aggregator]" in text:
            aggregator_config.parse(text, page.name).store_type()
            continue
        parsed = config.parse(text, page.name)
        for kind, tables in (("collectors", parsed.collectors), ("sinks", parsed.sinks)):
            for name, table in tables.items():
                settings.convert(table, model_of(kind, table.get("type", name)), where=f"{page.name}: {name}")


def test_configurations_are_found_where_they_are() -> None:
    assert {page.name for page in PAGES if configurations(page)} >= {"configuration.md", "sinks.md"}


def test_the_words_shown_beside_a_program_are_right(tmp_path: Path) -> None:
    (shown,) = [one for one in blocks(DOCS / "programs.md") if one.title == "NAME.toml"]
    (tmp_path / "x.toml").write_text(shown.text)
    spec = file_collector(tmp_path / "x.bpf.c")
    assert spec.words["execs"].fields["value"].name == "started"
    assert [str(place) for place in spec.attach] == ["xdp/eth0"]
    written = (DOCS / "programs.md").read_text()
    for name in (*tomllib.loads(shown.text), "before_snapshot", "attach_all"):
        assert f"`{name}`" in written or f"`{name}." in written


# ---- commands


def command_lines(page: Path) -> Iterator[list[str]]:
    """The words of each `$ bpfleet …` shown, up to a pipe or redirection."""
    for one in blocks(page):
        if one.language not in ("console", ""):
            continue
        for line in one.text.splitlines():
            match = re.match(r"(?:[$#] )?(?:\S*/)?bpfleet (?!\S*:)(.*)", line)
            if match and (line[0] in "$#" or one.language == ""):
                words = shlex.split(re.split(r" {2,}| [|>&] ?", match.group(1))[0], comments=True)
                yield words


@every_page
def test_every_command_shown_exists_with_its_options(page: Path) -> None:
    for words in command_lines(page):
        if words[0].startswith("-"):
            assert words[0] in ("--help", "--version"), words
            continue
        command = app.get_command(click.Context(app), words[0])
        assert command is not None, f"{page.name}: bpfleet {words[0]}"
        if isinstance(command, click.Group) and words[1:2] and words[1] in command.commands:
            command = command.commands[words[1]]
        options = {name: one for one in command.params for name in one.opts} | {"--help": None, "-h": None}
        for at, word in enumerate(words):
            if word.startswith("-") and word != "-":
                name, _, value = word.partition("=")
                assert name in options, f"{page.name}: bpfleet {' '.join(words)}"
                option = options[name]
                if isinstance(option, click.Option) and not option.is_flag:
                    value = value or words[at + 1]
                    if isinstance(option.type, click.Choice) and value[0].islower():
                        assert value in option.type.choices, words
                    if option.callback is not None:
                        Duration.parse(value)


def test_commands_are_found_where_they_are() -> None:
    assert len({words[0] for page in PAGES for words in command_lines(page)}) >= 7


@pytest.mark.parametrize("name", ["", *app.list_commands(click.Context(app))])
def test_the_help_of_every_command_is_shown_as_it_is(name: str) -> None:
    asked = f"$ bpfleet {name} --help".replace("  ", " ")
    shown = [one.text for one in blocks(DOCS / "commands.md") if one.text.startswith(f"{asked}\n")]
    assert len(shown) == 1, asked
    done = run(*([name] if name else []), "--help", env={**os.environ, "COLUMNS": "80"})
    # click breaks lines otherwise in another release: words are compared.
    assert shown[0].split() == f"{asked}\n{done.stdout}".split()


@pytest.mark.parametrize("name", app.list_commands(click.Context(app)))
def test_every_command_has_an_example_and_its_exit_codes(name: str) -> None:
    text = section("commands.md", f"## {name}")
    assert re.search(rf"^[$#] bpfleet {name} (?!--help)", text, re.MULTILINE) or "](doctor.md)" in text
    assert "Exit code" in text


@every_page
def test_every_make_target_shown_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for target in re.findall(r"(?:`|\$ )make ([a-z-]+)", page.read_text()):
        assert target in targets, target


# ---- settings


def shown_type(kind: Any) -> str:
    """A setting's type, as docs/configuration.md writes it."""
    bounds = {}
    if hasattr(kind, "__metadata__"):
        bounds = {
            name: getattr(kind.__metadata__[0], name)
            for name in ("ge", "le", "min_length")
            if getattr(kind.__metadata__[0], name) is not None
        }
        kind = get_args(kind)[0]
    if get_origin(kind) is Literal:
        return " or ".join(f'`"{one}"`' for one in get_args(kind))
    arguments = [one for one in get_args(kind) if one is not type(None)]
    if type(None) in get_args(kind):
        return shown_type(arguments[0])
    text = {
        Duration: "duration",
        Size: "size",
        bool: "boolean",
        str: "text",
        int: "number",
        tuple[str, ...]: "list of texts",
        tuple[int, ...]: "list of numbers",
        dict[str, str]: "table of texts",
    }[kind]
    if "le" in bounds:
        return f"{text}, {bounds['ge']} to {bounds['le']}"
    if "ge" in bounds:
        return f"{text}, at least {bounds['ge']}"
    return f"{text}, not empty" if bounds else text


COMMON = {one.name for base in (CollectorSettings, SinkSettings) for one in msgspec.structs.fields(base)}


def own_settings() -> list[Any]:
    """(page, heading, model, fields) of every table that can be written."""
    found: list[Any] = [
        ("## `[agent]`", config.AgentSettings, msgspec.structs.fields(config.AgentSettings)),
        ("### Every collector", CollectorSettings, msgspec.structs.fields(CollectorSettings)),
        ("### Every sink", SinkSettings, msgspec.structs.fields(SinkSettings)),
    ]
    for one in Plugins().all:
        if one.distribution.startswith("bpfleet ") and one.kind in ("collector", "sink"):
            model = model_of(f"{one.kind}s", one.name)
            own = [field for field in msgspec.structs.fields(model) if field.name not in COMMON]
            found.append((f"### {one.name}", model, own))
    assert len(found) >= 9
    central: list[Any] = [
        ("aggregator.md", "## `[aggregator]`", AggregatorSettings),
        ("aggregator.md", "## `[store.duckdb]`", DuckdbSettings),
        ("clickhouse.md", "## `[store.clickhouse]`", ClickhouseSettings),
    ]
    of_store = {field.name for field in msgspec.structs.fields(StoreSettings)}
    return [("configuration.md", *one) for one in found] + [
        (page, heading, model, [one for one in msgspec.structs.fields(model) if one.name not in of_store])
        for page, heading, model in central
    ]


@pytest.mark.parametrize(
    ("page", "heading", "model", "fields"), own_settings(), ids=lambda part: str(part)[:20]
)
def test_every_setting_is_documented_with_its_type_and_default(
    page: str, heading: str, model: type[Any], fields: Any
) -> None:
    shown = rows(section(page, heading))
    assert [row[0] for row in shown] == [f"`{field.name}`" for field in fields]
    for field, (_, kind, default, meaning) in zip(fields, shown, strict=True):
        assert kind == shown_type(field.type), field.name
        assert meaning, field.name
        if field.required:
            assert default == "must be given", field.name
            continue
        value = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
        if value is None:
            # What is taken instead is told in words.
            assert " " in default, field.name
        else:
            written = tomllib.loads(f"x = {default.strip('`')}")["x"]
            assert msgspec.convert(written, field.type, dec_hook=settings._decode) == value, field.name


# ---- collectors


def collectors() -> list[Collector]:
    plugins = Plugins()
    return [
        plugins.collector(one.name)
        for one in plugins.all
        if one.kind == "collector" and one.distribution.startswith("bpfleet ")
    ]


def fields_of(one: Map) -> list[list[str]]:
    """The rows of a map's table: field, part, type, meaning, unit."""
    return [
        [f"`{field.name}`", part, f"`{field.ctype}`", field.meaning.value, field.unit]
        for part, fields in (("key", one.key), ("value", one.value))
        for field in fields
    ]


@pytest.mark.parametrize("spec", collectors(), ids=lambda spec: spec.name)
def test_every_collector_is_documented_with_its_maps_and_fields(spec: Collector) -> None:
    text = section("collectors.md", f"## {spec.name}")
    for one in spec.maps:
        assert f"`{one.name}`" in text, one.name
    assert [row[:5] for row in rows(text)] == [row for one in spec.maps for row in fields_of(one)]
    assert re.search(rf"^[$#] bpfleet once {spec.name}", text, re.MULTILINE)
    assert "Limits" in text
    for name in spec.settings.__struct_fields__:
        if name not in COMMON:
            assert f"`{name}`" in text, name


def measured() -> dict[str, list[list[str]]]:
    """Rows by collector of the tables that `bench collectors` printed, as docs/benchmarks.md shows them."""
    found: dict[str, list[list[str]]] = {}
    for block in blocks(DOCS / "benchmarks.md"):
        _, title, table = block.text.partition("collectors: ns in the kernel for each event")
        for line in table.splitlines() if title else []:
            cells = re.split(" {2,}", line.strip())
            if len(cells) == 11 and cells[2].isdigit():
                found.setdefault(cells[0], []).append(cells)
    return found


def costs(shown: list[list[str]]) -> str:
    """What a collector's section says of its rows."""
    parts = []
    for _, event, ours, _, _, tool, theirs, *_ in shown:
        beside = f" (libbpf-tools' {tool}: {int(theirs):,} ns)" if theirs.isdigit() else ""
        parts.append(f"{int(ours):,} ns for each {event}{beside}")
    return f"Cost in the kernel: {'; '.join(parts)} ([benchmarks](benchmarks.md#a-run))."


@pytest.mark.parametrize("spec", collectors(), ids=lambda spec: spec.name)
def test_the_cost_of_a_collector_is_the_one_that_was_measured(spec: Collector) -> None:
    said = " ".join(section("collectors.md", f"## {spec.name}").split())
    assert costs(measured()[spec.name]) in said
    assert said.count("Cost in the kernel:") == said.count("Cost") == 1


def test_a_cost_is_shown_once() -> None:
    rows_of_all = [(row[0], row[1]) for shown in measured().values() for row in shown]
    assert len(rows_of_all) == len(set(rows_of_all)) > 20


# ---- plugins


def test_the_package_shown_is_the_one_that_the_tests_install() -> None:
    titled = {one.title: one.text for one in blocks(DOCS / "plugins.md") if one.title}
    assert set(titled) >= {
        f"tests/third_party/{name}"
        for name in (
            "pyproject.toml",
            "src/bpfleet_opens/collector.py",
            "src/bpfleet_opens/opens.bpf.c",
            "src/bpfleet_opens/sink.py",
        )
    }
    for title, text in titled.items():
        whole = (ROOT / title).read_text()
        # "…" stands for lines that are left out.
        for part in text.split("…\n"):
            assert part.strip("\n") in whole, title


def test_the_plugin_in_the_readme_counts(start_agent: Callable[..., Agent], tmp_path: Path) -> None:
    (module,) = [one for one in blocks(ROOT / "README.md") if one.language == "python"]
    (program,) = [one for one in blocks(ROOT / "README.md") if one.language == "c"]
    assert len(module.text.splitlines()) <= 20
    assert len(program.text.splitlines()) <= 25
    (point,) = re.findall(r'"(collector\.\w+)" = "(\w+)"', (ROOT / "README.md").read_text())
    environment = distribution(tmp_path, point[1], {point[0]: point[1]}, module.text)
    (tmp_path / "site" / program.title).write_text(program.text)
    number = signal.SIGRTMAX - 3
    signal.signal(number, signal.SIG_IGN)

    agent = start_agent('[agent]\ninterval = "100ms"\n[collectors.signals]', **environment)
    before = agent.next_snapshot("signals", "signals")
    for _ in range(50):
        os.kill(os.getpid(), number)
    after = agent.next_snapshot("signals", "signals")
    counts = [sum(row["count"] for row in one["rows"] if row["signal"] == number) for one in (before, after)]
    assert counts[1] - counts[0] == 50


def _bpfleet(*arguments: str) -> list[str]:
    return [str(Path(sys.executable).with_name("bpfleet")), *arguments]


def test_every_state_is_explained() -> None:
    shown = rows(section("plugins.md", "## States"))
    assert [row[0] for row in shown] == [f"`{state.value}`" for state in State]


def test_every_meaning_and_fold_is_explained() -> None:
    text = section("plugins.md", "## Schema")
    for word in [*Meaning, *Fold]:
        assert f"`{word.value}`" in text or f"`Fold.{word.name}`" in text or f"`{word.value}(" in text, word


# ---- architecture and reading


def test_every_module_is_on_the_map_of_rooms_and_nothing_else() -> None:
    shown = [row[0].strip("`") for row in rows(section("architecture.md", "## Rooms"))]
    agent = ROOT / "agent" / "bpfleet"
    there = sorted(str(path.relative_to(agent)) for path in agent.rglob("*.py"))
    assert len(shown) == len(set(shown))
    assert sorted(shown) == there


def test_every_module_of_the_aggregator_is_on_its_map() -> None:
    shown = [row[0].strip("`") for row in rows((DOCS / "architecture-aggregator.md").read_text())]
    aggregator = ROOT / "aggregator" / "bpfleet_aggregator"
    there = {str(path.relative_to(aggregator)) for path in aggregator.rglob("*.py")} - {"__init__.py"}
    assert set(shown) == there
    assert len(shown) == len(set(shown))


def test_the_reading_methods_are_explained_best_first() -> None:
    assert [row[0] for row in rows(section("reading.md", "## The ladder"))] == [f"`{one}`" for one in METHODS]


def test_every_kind_of_map_has_a_row_that_says_whether_it_is_read() -> None:
    shown = {row[0].strip("`"): row[1] for row in rows((DOCS / "maps.md").read_text())}
    assert set(shown) == set(kernel.MAP_TYPES) - {"unspec"}
    assert {kind for kind, how in shown.items() if how != "no"} == _READABLE
    for kind, how in shown.items():
        if how != "no":
            assert ("batch" in how) == (kind in _BATCH_TYPES)
            assert ("walk" in how) == (kind in _WALKABLE)
            assert ("drain" in how) == (kind in DRAINED)


# ---- troubleshooting


@cache
def messages() -> str:
    """Every text in the code but docstrings, with … where something is put in; one a line."""
    found = []
    for folder in ("agent", "plugins"):
        for path in (ROOT / folder).rglob("*.py"):
            tree = ast.parse(path.read_text())
            docstrings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
            for node in ast.walk(tree):
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in docstrings:
                    found.append(node.value)
                elif isinstance(node, ast.JoinedStr):
                    parts = (str(one.value) if isinstance(one, ast.Constant) else "…" for one in node.values)
                    found.append("".join(parts))
    with pytest.raises(bpfleet.ConfigError) as unknown:  # in msgspec's words
        settings.convert({"intervall": 1}, CollectorSettings, where="")
    return "\n".join([*found, unknown.value.what])


def explained() -> list[str]:
    return re.findall(r"^### `(.+)`$", (DOCS / "troubleshooting.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize("message", explained())
def test_every_message_that_is_explained_is_one_that_the_agent_says(message: str) -> None:
    for part in message.split("…"):
        words = part.strip(" '`:,()")
        assert words in messages(), words
    assert max(len(part) for part in message.split("…")) > 10


def test_many_messages_are_explained() -> None:
    assert len(explained()) >= 25


# ---- files beside the documentation


def test_the_changelog_has_this_version_on_top() -> None:
    versions = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert versions[0] == bpfleet.__version__


CAPABILITIES = re.compile(r"^CapabilityBoundingSet=(.+)$", re.MULTILINE)


def test_the_agent_runs_with_the_capabilities_that_the_unit_leaves(tmp_path: Path) -> None:
    names = " ".join(CAPABILITIES.findall((ROOT / "etc" / "bpfleet.service").read_text())).split()
    lacking = {"CAP_SYS_RESOURCE"}  # for kernels before 5.11; a container often lacks it
    kept = ",".join(f"+{name.removeprefix('CAP_').lower()}" for name in names if name not in lacking)
    state = tmp_path / "state"
    file = tmp_path / "bpfleet.toml"
    file.write_text(
        f'[agent]\nstate = "{state}"\ncontrol = ""\n[collectors.execve]\n[collectors.dnslat]\n[sinks.file]\n'
    )
    confined = ["setpriv", "--no-new-privs", f"--bounding-set=-all,{kept}"]
    agent = subprocess.Popen(
        [*confined, *_bpfleet("run", "--config", str(file))], stderr=subprocess.PIPE, text=True
    )
    try:
        for _ in range(300):
            if (state / "records.bpfleet").exists() or agent.poll() is not None:
                break
            time.sleep(0.1)
        agent.terminate()
        _, errors = agent.communicate(timeout=30)
    finally:
        agent.kill()
    assert (agent.returncode, errors) == (0, "")
    done = run("decode", "--kind", "status", str(state / "records.bpfleet"))
    first = msgspec.json.decode(done.stdout.splitlines()[0])
    assert {one["name"]: one["state"] for one in first["collectors"]} == {
        "execve": "running",
        "dnslat": "running",
    }

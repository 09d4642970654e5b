"""The documentation says what the code does: names, settings, links, examples."""

from __future__ import annotations

import re
from pathlib import Path

import click
import msgspec
import pytest

from bpfleet import config
from bpfleet.cli import app
from bpfleet.hooks import Hooks
from bpfleet.plugins import State
from bpfleet.schema import Field
from bpfleet.settings import CollectorSettings, SinkSettings
from bpfleet_plugins.collectors import cputime, dnslat, execve

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_configuration_shown_is_right(page: Path) -> None:
    for text in blocks(page, "toml"):
        if "[project" not in text:
            config.parse(text, page.name)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_shown_exists(page: Path) -> None:
    for text in blocks(page, "console"):
        for words in (line.split() for line in text.splitlines() if re.match(r"[$#] (\S*/)?bpfleet ", line)):
            command = app.get_command(click.Context(app), words[2])
            assert command is not None, words
            options = {name for one in command.params for name in one.opts}
            for word in words[3:]:
                if word.startswith("--"):
                    assert word.partition("=")[0] in options, words


@pytest.mark.parametrize("model", [config.AgentSettings, CollectorSettings, SinkSettings])
def test_every_setting_is_documented(model: type[msgspec.Struct]) -> None:
    text = (ROOT / "docs" / "configuration.md").read_text()
    for field in msgspec.structs.fields(model):
        assert f"`{field.name}`" in text, field.name


def test_every_command_is_documented() -> None:
    text = (ROOT / "docs" / "commands.md").read_text()
    for name in app.list_commands(click.Context(app)):
        assert f"bpfleet {name}" in text, name


def names(fields: tuple[Field, ...]) -> list[str]:
    return [field.name for field in fields]


@pytest.mark.parametrize("plugin", [execve, cputime, dnslat], ids=["execve", "cputime", "dnslat"])
def test_every_collector_is_documented_with_its_maps_and_fields(plugin: object) -> None:
    (spec,) = plugin.bpfleet_collectors()  # type: ignore[attr-defined]
    text = (ROOT / "docs" / "collectors.md").read_text()
    section = text.partition(f"## {spec.name}\n")[2].partition("\n## ")[0]
    for one in spec.maps:
        assert f"`{one.name}`" in section
        for name in names(one.key) + names(one.value):
            assert f"`{name}`" in section, name
    own = set(spec.settings.__struct_fields__) - set(CollectorSettings.__struct_fields__)
    for name in own:
        assert f"`{name}`" in section, name


def test_every_hook_and_every_state_is_documented() -> None:
    text = (ROOT / "docs" / "plugins.md").read_text()
    for state in State:
        assert f"`{state.value}`" in text, state
    hooks = (ROOT / "agent" / "bpfleet" / "hooks.py").read_text()
    for name, hook in vars(Hooks).items():
        if name.startswith("bpfleet_"):
            assert hook.__doc__
            assert name in hooks
    assert "bpfleet_host_labels" in text
    assert "bpfleet_cli" in text

"""The configuration: what is wrong is said with place and remedy, and nothing is guessed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent_process import run
from bpfleet import config
from bpfleet.errors import ConfigError
from bpfleet.settings import CollectorSettings, Duration, SinkSettings, Size, convert


def test_the_default_configuration_is_right() -> None:
    parsed = config.parse(config.DEFAULT, "default")
    assert list(parsed.collectors) == ["execve", "cputime", "dnslat"]
    assert list(parsed.sinks) == ["stdout"]
    assert parsed.agent.interval == 10


@pytest.mark.parametrize("name", ["bpfleet.toml", "demo.toml"])
def test_the_configurations_that_come_with_it_are_right(name: str) -> None:
    path = Path(__file__).parent.parent / "etc" / name
    done = run("check", str(path), "--no-load")
    assert done.returncode == 0, done.stderr
    assert "error" not in done.stdout


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[agent\nx = 1", ["not TOML", "line 1"]),
        ("[agnt]", ["[agnt]", "did you mean [agent]"]),
        ("agent = 3", ["'agent' is not a table", "[agent]"]),
        ("[collectors]\nexecve = 1", ["'collectors.execve' is not a table", "[collectors.execve]"]),
        ("[agent]\nintervl = '1s'", ["intervl", "did you mean 'interval'"]),
        ("[agent]\ninterval = 1", ['such as "10s"', "[agent].interval"]),
        ("[agent]\ninterval = '0s'", ["not longer than nothing"]),
        ("[agent]\ninterval = '10 parsecs'", ["10 parsecs"]),
        ("[agent]\nlabels = {a = 1}", ["str", "labels"]),
        ("[agent]\nuser = 5", ["user"]),
    ],
)
def test_what_is_wrong_is_named_with_its_place(text: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        config.parse(text, "the.toml")
    for word in (*words, "the.toml", "remedy"):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("10s", 10), ("250ms", 0.25), ("1.5m", 90), ("2h", 7200), ("1d", 86400), ("5us", 5e-6)],
)
def test_durations(text: str, seconds: float) -> None:
    assert Duration.parse(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "size"), [("512B", 512), ("64MiB", 64 << 20), ("10MB", 10**7), ("1.5KiB", 1536)]
)
def test_sizes(text: str, size: int) -> None:
    assert Size.parse(text) == size


@pytest.mark.parametrize("text", ["", "10", "s", "-1s", "10 s s", 10, None, "1e3s"])
def test_what_is_no_duration(text: object) -> None:
    with pytest.raises(ValueError, match=r'such as "10s"'):
        Duration.parse(text)


def test_a_models_settings_are_converted_and_checked() -> None:
    settings = convert({"interval": "5s", "row_buffer": "1MiB"}, CollectorSettings, where="x")
    assert settings.interval == 5.0
    assert settings.row_buffer == 1 << 20
    with pytest.raises(ConfigError, match="queu") as caught:
        convert({"queu": "1MiB"}, SinkSettings, where="[sinks.a]")
    assert "did you mean 'queue'" in str(caught.value)
    assert "[sinks.a]" in str(caught.value)


@pytest.mark.parametrize("command", ["run", "once", "plugins", "check"])
def test_a_configuration_that_is_not_there_is_wrong_usage(command: str) -> None:
    arguments = ["check", "/no/such.toml"] if command == "check" else [command, "--config", "/no/such.toml"]
    done = run(*arguments)
    assert done.returncode == 2
    assert "No such file" in done.stderr
    assert "/no/such.toml" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_configuration_without_a_collector_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "empty.toml"
    path.write_text("[sinks.stdout]\n")
    done = run("run", "--config", str(path))
    assert done.returncode == 2
    assert "enables no collector" in done.stderr


@pytest.mark.parametrize(
    ("user", "words"), [("no-such-user", "no user 'no-such-user'"), ("root", "must not run as root")]
)
def test_a_user_that_can_not_be_is_an_error(tmp_path: Path, user: str, words: str) -> None:
    path = tmp_path / "c.toml"
    path.write_text(f'[agent]\nuser = "{user}"\nstate = "{tmp_path}/state"\n[collectors.execve]\n')
    done = run("run", "--config", str(path), "--duration", "1s")
    assert done.returncode != 0
    assert words in done.stderr
    assert "remedy" in done.stderr


def test_a_state_directory_of_somebody_elses_names_user_folder_and_remedy(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o755)
    path = tmp_path / "c.toml"
    path.write_text(f'[agent]\nstate = "{state}"\n[collectors.execve]\n[sinks.stdout]\n')
    done = run("run", "--config", str(path), "--duration", "1s")
    assert done.returncode == 2
    assert "'nobody'" in done.stderr
    assert str(state) in done.stderr
    assert "chown nobody" in done.stderr


def test_check_loads_what_is_named_and_says_how_each_map_is_read(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text("[collectors.execve]\n[collectors.cputme]\n[sinks.stdout]\n[sinks.fil]\n")
    done = run("check", str(path), "--format", "json")
    assert done.returncode == 2
    found = {one["name"]: one for one in map(json.loads, done.stdout.splitlines())}
    assert found["execve"]["state"] == "ready"
    assert "counts (walk)" in found["execve"]["note"]
    assert found["stdout"]["state"] == "ready"
    assert found["cputme"]["state"] == found["fil"]["state"] == "config_error"
    assert "did you mean 'cputime'" in found["cputme"]["error"]
    assert "[sinks.fil]" in found["fil"]["error"]


def test_wrong_usage_says_what_is_right() -> None:
    done = run("once", "execve", "--after", "soon")
    assert done.returncode == 2
    assert 'such as "10s"' in done.stderr
    done = run("onse")
    assert done.returncode == 2
    assert "onse" in done.stderr

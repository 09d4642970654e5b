"""How `bpfleet aggregate` comes to run: what it needs, and giving up root once it has bound."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from agent_process import run
from aggregator_client import Client, hello, welcomed
from aggregator_process import AggregatorProcess, privileged_port

Start = Callable[..., AggregatorProcess]
Connect = Callable[..., Client]


def threads(pid: int) -> list[dict[str, str]]:
    """/proc/PID/task/*/status."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        lines = (task / "status").read_text().splitlines()
        found.append({name: value.strip() for name, _, value in (line.partition(":") for line in lines)})
    return found


def test_it_binds_as_root_and_then_no_thread_of_it_is_root_any_more(
    start_aggregator: Start, connect: Connect
) -> None:
    aggregator = start_aggregator(bind=f"tcp://127.0.0.1:{privileged_port()}")
    assert welcomed(connect(aggregator.endpoint).ask(hello())), "and it is listening"
    nobody = pwd.getpwnam("nobody")
    found = threads(aggregator.process.pid)
    assert len(found) > 3, "ZeroMQ's own threads began before root was given up"
    for one in found:
        assert one["Uid"].split() == [str(nobody.pw_uid)] * 4
        assert one["Gid"].split() == [str(nobody.pw_gid)] * 4
        assert one["Groups"] == ""
        assert int(one["CapPrm"], 16) == int(one["CapEff"], 16) == 0
        assert one["NoNewPrivs"] == "1"


def configured(folder: Path, settings: str) -> Path:
    config = folder / "aggregator.toml"
    config.write_text(f'[aggregator]\nbind = ["tcp://127.0.0.1:*"]\n{settings}\n')
    return config


def test_a_state_folder_that_is_not_its_users_is_named_with_the_remedy(shared_path: Path) -> None:
    state = shared_path / "state"
    state.mkdir(mode=0o755)
    done = run("aggregate", "--config", str(configured(shared_path, f'state = "{state}"\nuser = "nobody"')))
    assert done.returncode == 1
    assert done.stderr == (
        "bpfleet: user nobody can't write to the state directory\n"
        f"  where:  {state}\n"
        f"  remedy: chown nobody {state}, or set [aggregator] user or state\n"
    )


@pytest.mark.parametrize(
    ("user", "said"), [("root", "must not run as root"), ("nobody-at-all", "no user 'nobody-at-all'")]
)
def test_a_user_that_it_can_not_become_is_an_error(shared_path: Path, user: str, said: str) -> None:
    settings = f'state = "{shared_path / "state"}"\nuser = "{user}"'
    done = run("aggregate", "--config", str(configured(shared_path, settings)))
    assert done.returncode == 1
    assert said in done.stderr
    assert "remedy" in done.stderr
    assert not (shared_path / "state").exists()


# ---- without the extra


def site_without(folder: Path, names: Iterable[str]) -> Path:
    """The interpreter of a virtual environment that has all that ours has, but for these packages."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True, timeout=60)
    (site,) = (folder / "lib").glob("python*/site-packages")
    ours = Path(sys.prefix, *site.relative_to(folder).parts)
    for one in ours.iterdir():
        if not one.name.startswith(tuple(names)):
            (site / one.name).symlink_to(one)
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def python() -> Iterator[Path]:
    """Where bpfleet is installed without its aggregator, in a folder that others may enter."""
    with tempfile.TemporaryDirectory(prefix="bpfleet-test-") as made:
        Path(made).chmod(0o755)
        yield site_without(Path(made), ["duckdb", "_duckdb", "pyarrow"])


def bpfleet(python: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    code = "import sys; sys.argv[0] = 'bpfleet'; from bpfleet.cli import main; main()"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run(
        [python, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environment,
    )


@pytest.mark.parametrize(
    "command",
    [("aggregate",), ("query", "SELECT 1"), ("query", "--help")],
    ids=["aggregate", "query", "query --help"],
)
def test_without_the_extra_the_command_names_it(
    python: Path, shared_path: Path, command: tuple[str, ...]
) -> None:
    config = configured(shared_path, f'state = "{shared_path / "state"}"')
    options = [] if "--help" in command else ["--config", str(config)]
    done = bpfleet(python, *command, *options)
    assert done.returncode == 2, done.stderr
    assert "which is not installed" in done.stderr
    assert "remedy: pip install 'bpfleet[aggregator]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_the_extra_all_else_is_there(python: Path) -> None:
    done = bpfleet(python, "--help")
    assert done.returncode == 0
    assert "aggregate" in done.stdout
    done = bpfleet(python, "plugins")
    assert done.returncode == 0, done.stderr
    assert "zmq" in done.stdout


def test_code_that_its_user_may_not_read_is_named(python: Path, shared_path: Path) -> None:
    config = configured(shared_path, f'state = "{shared_path / "state"}"\nuser = "nobody"')
    folder = python.parent.parent
    folder.chmod(0o700)
    try:
        done = bpfleet(python, "aggregate", "--config", str(config))
    finally:
        folder.chmod(0o755)
    assert done.returncode == 1
    assert "the aggregator's user nobody may not read the code" in done.stderr
    assert f"where:  {folder}\n  remedy: chmod go+x {folder}, or install bpfleet elsewhere" in done.stderr


# ---- --check


def test_a_right_configuration_is_said_to_be_so_and_nothing_is_made(shared_path: Path) -> None:
    config = configured(shared_path, f'state = "{shared_path / "state"}"')
    done = run("aggregate", "--check", "--config", str(config))
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{config}: would listen on tcp://127.0.0.1:*; store duckdb; without keys" in done.stdout
    assert not (shared_path / "state").exists()


def test_all_that_is_wrong_is_told_at_once(shared_path: Path) -> None:
    state = shared_path / "state"
    state.mkdir(mode=0o755)
    key, keys = shared_path / "key", shared_path / "keys"
    keys.write_text("half a line\n")
    settings = (
        f'state = "{state}"\nuser = "nobody"\nkey = "{key}"\nkeys = "{keys}"\n[store.duckdb]\nretention = 3'
    )
    done = run("aggregate", "--check", "--config", str(configured(shared_path, settings)))
    assert done.returncode == 2
    assert "user nobody can't write to the state directory" in done.stderr
    assert "there is no key file" in done.stderr
    assert f"{keys}:1" in done.stderr
    assert "expected a duration" in done.stderr
    assert done.stderr.count("remedy:") == 4
    assert "Traceback" not in done.stderr

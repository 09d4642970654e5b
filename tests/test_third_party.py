"""A plugin package from elsewhere, installed as its users install it: its collector and its sink run."""

from __future__ import annotations

import os
import subprocess
import time
import zipfile
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent


@pytest.fixture(scope="module")
def venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean virtual environment with bpfleet's wheel and the third party's package."""
    directory = tmp_path_factory.mktemp("third-party")
    venv = directory / "venv"
    python = venv / "bin" / "python"
    subprocess.run(["/usr/bin/python3", "-m", "venv", "--system-site-packages", venv], check=True)
    pip = [python, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", directory, ROOT], check=True)
    (wheel,) = directory.glob("bpfleet-*.whl")
    subprocess.run([*pip, "install", wheel], check=True)
    subprocess.run([*pip, "install", HERE / "third_party"], check=True)
    return venv


def test_the_wheel_carries_sources_objects_and_headers(venv: Path) -> None:
    (wheel,) = venv.parent.glob("bpfleet-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for name in (
        "bpfleet_plugins/collectors/execve/execve.bpf.c",
        "bpfleet_plugins/collectors/execve/execve.bpf.o",
        "bpfleet_plugins/collectors/cputime/cputime.bpf.o",
        "bpfleet_plugins/collectors/dnslat/dnslat.bpf.c",
        "bpfleet_bpf/snapshot.bpf.o",
        "bpfleet_bpf/include/bpfleet/bpfleet.h",
        "bpfleet/py.typed",
    ):
        assert name in names


def test_a_third_partys_plugins_are_listed(venv: Path) -> None:
    listed = subprocess.run(
        [venv / "bin" / "bpfleet", "plugins"], capture_output=True, text=True, check=False
    )
    lines = [line.split() for line in listed.stdout.splitlines()]
    assert ["collector", "opens", "disabled", "bpfleet-opens", "2.1"] in lines
    assert ["sink", "lines", "disabled", "bpfleet-opens", "2.1"] in lines


def test_an_installed_agent_needs_no_compiler_for_what_its_wheel_carries(venv: Path, tmp_path: Path) -> None:
    bin_without_clang = tmp_path / "bin"
    bin_without_clang.mkdir()
    done = subprocess.run(
        [venv / "bin" / "bpfleet", "once", "execve", "cputime", "--after", "200ms", "--format", "json"],
        capture_output=True,
        text=True,
        env={"PATH": str(bin_without_clang)},
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_third_partys_collector_and_sink_run(venv: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    config = tmp_path / "bpfleet.toml"
    config.write_text(
        f'[agent]\nstate = "{state}"\ninterval = "200ms"\n'
        f"[collectors.opens]\nonly_pid = {os.getpid()}\n"
        '[sinks.lines]\npath = "lines.txt"\n'
    )
    agent = subprocess.Popen(
        [venv / "bin" / "bpfleet", "run", "--config", config], stderr=subprocess.PIPE, text=True
    )
    lines = state / "lines.txt"
    try:
        for _ in range(300):
            if lines.exists() and "schema" in lines.read_text():
                break
            time.sleep(0.1)
        comm = Path("/proc/self/comm").read_text().strip()
        for _ in range(300):
            os.close(os.open("/dev/null", os.O_RDONLY))
        for _ in range(40):
            with pytest.raises(FileNotFoundError):
                os.open("/no/such/file", os.O_RDONLY)
        time.sleep(1)
    finally:
        agent.terminate()
        _, errors = agent.communicate(timeout=20)
    assert agent.returncode == 0, errors
    counts = [line.split() for line in lines.read_text().splitlines() if line.startswith(f"opens {comm} ")]
    _, _, count, failed = counts[-1]
    # Reading the file above opens it too; nothing else of ours fails.
    assert int(failed) == 40
    assert 340 <= int(count) <= 340 + 310

"""What the agent needs to be allowed, and what it says where it is not."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from agent_process import BPFLEET, run


def under(*setpriv: str, command: Sequence[str] = ("once", "execve", "--after", "300ms")) -> tuple[int, str]:
    """(exit code, stderr) of a command of ours run by setpriv with these options."""
    done = subprocess.run(
        ["setpriv", *setpriv, BPFLEET, *command], capture_output=True, text=True, timeout=60, check=False
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


@pytest.mark.parametrize("lacking", ["kill", "setuid", "setgid", "setpcap"])
def test_root_without_a_capability_that_the_split_needs_is_told_which(lacking: str) -> None:
    code, said = under(f"--bounding-set=-{lacking}", "--inh-caps=-all")
    assert code == 1
    assert f"root lacks CAP_{lacking.upper()} here" in said
    assert "bpfleet doctor" in said


def test_code_that_the_workers_user_may_not_read_is_named(tmp_path: Path) -> None:
    """The folder itself, not one above it: no mount can open that."""
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    site = next((venv / "lib").glob("python*/site-packages"))
    (site / "all.pth").write_text("\n".join(path for path in sys.path if path.startswith("/")))
    venv.chmod(0o700)
    code = "import sys; from bpfleet.cli import main; sys.argv[0] = 'bpfleet'; main()"
    done = subprocess.run(
        [venv / "bin" / "python", "-c", code, "once", "execve"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "may not read the code" in done.stderr
    assert f"where:  {venv}\n  remedy: chmod go+rx {venv}" in done.stderr


def test_a_collector_on_the_command_line_that_is_not_there_is_wrong_usage() -> None:
    done = run("once", "exceve")
    assert done.returncode == 2
    assert "there is no collector 'exceve'" in done.stderr
    assert "where:  the command line: exceve" in done.stderr
    assert "did you mean 'execve'?" in done.stderr


def test_without_root_the_error_says_what_to_do(tmp_path: Path) -> None:
    done = subprocess.run(
        ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", BPFLEET, "once", "execve"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert "needs root" in done.stderr
    assert "remedy" in done.stderr
    assert "Traceback" not in done.stderr


def test_code_behind_a_private_directory_is_reached_all_the_same(tmp_path: Path) -> None:
    """A checkout in /root, which only root can pass."""
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    venv = private / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    site = next((venv / "lib").glob("python*/site-packages"))
    (site / "all.pth").write_text(
        "\n".join(path for path in sys.path if "site-packages" in path or "main" in path)
    )
    here = Path(__file__).parent.parent
    copied = private / "copy"
    for part in ("agent", "plugins", "bpf"):
        subprocess.run(["cp", "-r", here / part, copied / part], check=True) if copied.exists() else (
            copied.mkdir(),
            subprocess.run(["cp", "-r", here / part, copied / part], check=True),
        )
    code = "import sys; from bpfleet.cli import main; sys.argv[0] = 'bpfleet'; main()"
    done = subprocess.run(
        [venv / "bin" / "python", "-c", code, "once", "execve", "--after", "300ms", "--format", "json"],
        capture_output=True,
        text=True,
        timeout=60,
        env={
            **os.environ,
            "PYTHONPATH": ":".join(str(copied / part) for part in ("agent", "plugins", "bpf")),
        },
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert '"collector":"execve"' in done.stdout
    assert private.stat().st_mode & 0o777 == 0o700

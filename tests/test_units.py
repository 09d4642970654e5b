"""The systemd units: right by systemd's own judgement, and no more exposed than they were."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from agent_process import BPFLEET
from aggregator_client import Client, hello, welcomed
from aggregator_process import AggregatorProcess, privileged_port

ETC = Path(__file__).parent.parent / "etc"
UNITS = {
    # What systemd 252 gave: 0 is shut in, 10 may do anything. The agent loads BPF programs, so it may more.
    "bpfleet": 5.4,
    "bpfleet-aggregator": 2.8,
}


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *arguments], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture(params=UNITS)
def unit(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A unit as an operator has it once the path is mended."""
    text = (ETC / f"{request.param}.service").read_text()
    assert "/opt/bpfleet/bin/bpfleet" in text
    path = tmp_path / f"{request.param}.service"
    path.write_text(text.replace("/opt/bpfleet/bin/bpfleet", BPFLEET))
    return path


def test_systemd_finds_nothing_wrong(unit: Path) -> None:
    done = analyze("verify", "--man=no", str(unit))
    about_it = [line for line in done.stderr.splitlines() if unit.stem in line]
    assert (done.returncode, about_it) == (0, [])


def test_systemd_would_find_what_is_wrong(unit: Path) -> None:
    unit.write_text(unit.read_text().replace("ProtectHome=", "ProtectHouse="))
    done = analyze("verify", "--man=no", str(unit))
    assert "Unknown key 'ProtectHouse'" in done.stderr


def test_it_is_not_more_exposed_than_was_noted(unit: Path) -> None:
    done = analyze("security", "--offline=yes", "--no-pager", str(unit))
    found = re.search(r"Overall exposure level for \S+: (\d+\.\d)", done.stdout)
    assert found is not None, done.stdout + done.stderr
    assert float(found.group(1)) <= UNITS[unit.stem]


def test_the_commands_and_options_that_it_starts_exist(unit: Path) -> None:
    (line,) = re.findall(r"^ExecStart=(.*)", unit.read_text(), re.MULTILINE)
    program, command, *options = line.split()
    shown = subprocess.run(
        [program, command, "--help"], capture_output=True, text=True, timeout=60, check=False
    )
    assert shown.returncode == 0
    assert all(one in shown.stdout for one in options if one.startswith("--"))


def test_the_aggregator_runs_with_the_capabilities_that_the_unit_leaves(
    start_aggregator: Callable[..., AggregatorProcess], connect: Callable[..., Client]
) -> None:
    text = (ETC / "bpfleet-aggregator.service").read_text()
    names = " ".join(re.findall(r"^CapabilityBoundingSet=(.+)$", text, re.MULTILINE)).split()
    kept = ",".join(f"+{name.removeprefix('CAP_').lower()}" for name in names)
    confined = ["setpriv", "--no-new-privs", f"--bounding-set=-all,{kept}"]
    aggregator = start_aggregator(prefix=confined, bind=f"tcp://127.0.0.1:{privileged_port()}")
    assert welcomed(connect(aggregator.endpoint).ask(hello()))

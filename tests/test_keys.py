"""`bpfleet keys` and the key file: made once, for one user, and refused where others may read it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
import zmq

from agent_process import run
from bpfleet.errors import BpfleetError
from bpfleet.keys import KeyPair, is_key, read_pair, write_pair


def test_new_makes_a_pair_and_show_prints_its_public_key(tmp_path: Path) -> None:
    path = tmp_path / "a.key"
    made = run("keys", "new", str(path))
    assert made.returncode == 0, made.stderr
    public = made.stdout.strip()
    assert is_key(public)
    assert run("keys", "show", str(path)).stdout == f"{public}\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.stat().st_uid not in (0,), "it is the worker's user's"
    pair = read_pair(path)
    assert zmq.curve_public(pair.secret.encode()).decode() == public
    assert pair.secret not in made.stdout + made.stderr


def test_a_pair_is_replaced_only_by_force(tmp_path: Path) -> None:
    path = tmp_path / "a.key"
    first = run("keys", "new", str(path)).stdout
    again = run("keys", "new", str(path))
    assert again.returncode == 2
    assert "a key file is there already" in again.stderr
    assert "--force" in again.stderr
    assert run("keys", "show", str(path)).stdout == first
    assert run("keys", "new", "--force", str(path)).stdout not in ("", first)


def test_without_a_path_it_is_in_the_state_directory(tmp_path: Path) -> None:
    config = tmp_path / "bpfleet.toml"
    config.write_text(f'[agent]\nstate = "{tmp_path}/state"\n')
    assert run("keys", "new", "--config", str(config)).returncode == 0
    assert (tmp_path / "state" / "bpfleet.key").exists()
    assert run("keys", "show", "--config", str(config)).returncode == 0


def test_a_missing_file_names_the_command_that_makes_one(tmp_path: Path) -> None:
    done = run("keys", "show", str(tmp_path / "none"))
    assert done.returncode == 2
    assert f"bpfleet keys new {tmp_path / 'none'}" in done.stderr


PAIR = KeyPair(*(key.decode() for key in zmq.curve_keypair()))


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o660, 0o604])
def test_a_file_that_others_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "a.key"
    write_pair(path, PAIR)
    path.chmod(mode)
    with pytest.raises(BpfleetError, match="others than its owner") as caught:
        read_pair(path)
    assert "chmod 600" in caught.value.remedy


@pytest.mark.parametrize(
    "text",
    [
        "",
        "public",
        'public = "x"\nsecret = "y"',
        f'public = "{PAIR.public}"',
        "\0\xff",
        "public = 1\nsecret = 2",
    ],
)
def test_a_file_that_holds_no_pair_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.key"
    path.touch(0o600)
    path.write_text(text)
    with pytest.raises(BpfleetError, match="does not hold a pair of keys"):
        read_pair(path)


def test_a_fifo_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.key", 0o600)
    with pytest.raises(BpfleetError, match="no regular file"):
        read_pair(tmp_path / "a.key")


def test_a_secret_key_is_not_in_what_a_pair_prints() -> None:
    assert PAIR.secret not in repr(PAIR)

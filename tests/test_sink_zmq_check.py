"""`bpfleet check` looks at the zmq sink's keys and spool, as the user that it runs as, and takes nothing."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from agent_process import BPFLEET, run
from sample_records import frame
from spools import open_spool

SERVER = "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"


class Host:
    """A configuration, a state folder of nobody's with a key pair and a spool in which a record waits."""

    def __init__(self, folder: Path) -> None:
        self.state, self.config = folder / "state", folder / "bpfleet.toml"
        self.state.mkdir(mode=0o755)
        self.key = self.state / "bpfleet.key"
        made = run("keys", "new", str(self.key))
        assert made.returncode == 0, made.stderr
        self.spool = self.state / "spool" / "zmq.sqlite"
        spool = open_spool(self.spool.parent)
        spool.take([frame(1)])
        spool.close()
        for one in self.spool.parent.iterdir():
            one.rename(one.with_name(one.name.replace("test", "zmq")))
        for one in (self.state, *self.state.rglob("*")):
            shutil.chown(one, "nobody", "nogroup")
        self.settings = ""

    def check(self) -> tuple[int, str]:
        """(exit code, all that was said)."""
        self.config.write_text(
            f'[agent]\nuser = "nobody"\nstate = "{self.state}"\n[collectors.execve]\n'
            f'[sinks.zmq]\nendpoints = ["tcp://192.0.2.1:7700"]\nserver_key = ["{SERVER}"]\n{self.settings}\n'
        )
        done = run("check", str(self.config))
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout + done.stderr


@pytest.fixture
def host(shared_path: Path) -> Host:
    return Host(shared_path)


def test_a_good_one_is_ready_and_left_as_it_was(host: Host) -> None:
    before = {one: (one.stat().st_mtime_ns, one.stat().st_size) for one in host.state.rglob("*")}
    code, said = host.check()
    assert code == 0, said
    assert "sink       zmq     ready" in said
    assert {one: (one.stat().st_mtime_ns, one.stat().st_size) for one in host.state.rglob("*")} == before


def test_an_agent_that_has_it_open_is_not_disturbed(host: Host) -> None:
    spool = sqlite3.connect(host.spool, isolation_level=None)
    spool.execute("PRAGMA locking_mode = EXCLUSIVE")
    spool.execute("BEGIN EXCLUSIVE")
    code, said = host.check()
    spool.execute("COMMIT")
    spool.close()
    assert code == 0, said


def no_key(host: Host) -> None:
    host.key.unlink()


def key_for_all(host: Host) -> None:
    host.key.chmod(0o644)


def foreign_key(host: Host) -> None:
    shutil.chown(host.key, "root")


def no_pair(host: Host) -> None:
    other = host.state / "other.key"
    run("keys", "new", str(other))
    secret = next(line for line in other.read_text().splitlines() if line.startswith("secret"))
    lines = [secret if line.startswith("secret") else line for line in host.key.read_text().splitlines()]
    host.key.write_text("\n".join(lines) + "\n")


def folder_of_root(host: Host) -> None:
    shutil.chown(host.spool.parent, "root", "root")


def no_folder_possible(host: Host) -> None:
    shutil.rmtree(host.spool.parent)
    shutil.chown(host.state, "root", "root")


def folder_is_a_file(host: Host) -> None:
    shutil.rmtree(host.spool.parent)
    host.spool.parent.touch()


def dead_letters_of_root(host: Host) -> None:
    (host.state / "dead-letters").mkdir(mode=0o700)


def spool_of_root(host: Host) -> None:
    shutil.chown(host.spool, "root", "root")


def spool_for_all(host: Host) -> None:
    host.spool.chmod(0o644)


def a_later_release(host: Host) -> None:
    database = sqlite3.connect(host.spool)
    database.execute("PRAGMA user_version = 9")
    database.close()


def another_database(host: Host) -> None:
    host.spool.unlink()
    database = sqlite3.connect(host.spool)
    database.execute("CREATE TABLE recipes (name)")
    database.close()
    host.spool.chmod(0o600)
    shutil.chown(host.spool, "nobody")


def no_database(host: Host) -> None:
    host.spool.write_bytes(b"hello")


def a_link(host: Host) -> None:
    host.spool.unlink()
    host.spool.symlink_to("/etc/passwd")


@pytest.mark.parametrize(
    ("harm", "what", "remedy"),
    [
        (no_key, "there is no key file", "bpfleet keys new"),
        (key_for_all, "others than its owner may use the key file (mode 0644)", "chmod 600"),
        (foreign_key, "can't read the key file", "chown nobody"),
        (no_pair, "the public key in the key file is not that of the secret key", "keys new --force"),
        (folder_of_root, "user 'nobody' may not write there", "chown -R nobody"),
        (no_folder_possible, "user 'nobody' may not write there", "chown -R nobody"),
        (folder_is_a_file, "a folder that the sink needs is no folder", "move away"),
        (dead_letters_of_root, "user 'nobody' may not write there", "chown -R nobody"),
        (spool_of_root, "it belongs to uid 0, not to user 'nobody'", "chown nobody"),
        (spool_for_all, "others may look into the spool (mode 0644)", "chmod 600"),
        (a_later_release, "the spool is of version 9, this release's is 1", "the release that wrote it"),
        (another_database, "is no spool", "move it away"),
        (no_database, "is no spool", "move it away"),
        (a_link, "it is no regular file", "move away"),
    ],
    ids=lambda one: getattr(one, "__name__", None),
)
def test_what_is_wrong_is_named_with_place_and_remedy(
    host: Host, harm: Callable[[Host], None], what: str, remedy: str
) -> None:
    harm(host)
    code, said = host.check()
    assert code == 2, said
    assert what in said
    (told,) = (part for part in said.split("\nbpfleet: ") if what in part)
    assert str(host.state) in told
    assert remedy in told.partition("remedy:")[2]


def test_a_disk_without_room_is_told(host: Host) -> None:
    place = host.spool.parent
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m,mode=0700,uid=65534", "tmpfs", place], check=True)
    try:
        code, said = host.check()
    finally:
        subprocess.run(["umount", place], check=True)
    assert code == 2
    assert "the spool's disk has 2 MiB left, a spool of 256 MiB needs 32 at least" in said
    assert "free some space on it, or set a smaller spool_size" in said


def test_all_that_is_wrong_is_told_at_once(host: Host) -> None:
    no_key(host)
    folder_of_root(host)
    code, said = host.check()
    assert code == 2
    assert "there is no key file" in said
    assert "user 'nobody' may not write there" in said


def test_a_user_whose_files_they_are_not_is_told_nothing_wrong(host: Host) -> None:
    """Who may not look can't judge."""
    no_key(host)
    host.check()
    done = subprocess.run(
        [
            "setpriv",
            "--reuid",
            "12345",
            "--regid",
            "12345",
            "--clear-groups",
            BPFLEET,
            "check",
            "--no-load",
            str(host.config),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "there is no key file" not in done.stderr
    assert "sink       zmq     ready" in done.stdout
    assert done.returncode == 0, done.stderr


def test_doctor_says_it_too(host: Host) -> None:
    assert host.check()[0] == 0
    shown = run("doctor", "--config", str(host.config), "--format", "json", timeout=120)
    found = [line for line in map(json.loads, shown.stdout.splitlines()) if line.get("what") == "sink"]
    assert [(one["state"], one["detail"]) for one in found] == [("ok", "zmq: has what it needs")]
    no_key(host)
    spool_for_all(host)
    shown = run("doctor", "--config", str(host.config), "--format", "json", timeout=120)
    found = [line for line in map(json.loads, shown.stdout.splitlines()) if line.get("what") == "sink"]
    assert shown.returncode == 1
    assert [one["state"] for one in found] == ["missing", "missing"]
    assert found[0]["detail"] == f"zmq: there is no key file ({host.key})"
    assert found[0]["remedy"] == f"bpfleet keys new {host.key}, as root"
    assert found[1]["remedy"] == f"chmod 600 {host.spool}"

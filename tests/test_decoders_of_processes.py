"""The decoders cgroup, uid and signal, against the kernel, the C library and files of our own."""

from __future__ import annotations

import os
import pwd
import signal
from pathlib import Path

import numpy as np
import pytest

from bpfleet_plugins.decoders import cgroup as cgroup_decoder
from bpfleet_plugins.decoders.cgroup import Cgroups
from bpfleet_plugins.decoders.signal import names
from bpfleet_plugins.decoders.uid import Users


def shown(decoder: Cgroups, *ids: int) -> list[str]:
    return [one.decode() for one in decoder.paths(np.array(ids, "<u8")).tolist()]


def test_a_cgroup_is_shown_by_its_path(cgroup: Path) -> None:
    container = cgroup / f"docker-{'ab' * 32}.scope"
    container.mkdir()
    try:
        inside, outside, root = (one.stat().st_ino for one in (container, cgroup, cgroup.parent))
        found = shown(Cgroups(), root, outside, inside)
    finally:
        container.rmdir()
    assert found == ["/", f"/{cgroup.name}", f"/{cgroup.name}/{container.name}"]


def test_a_cgroup_keeps_its_name_once_it_is_gone(cgroup: Path) -> None:
    decoder = Cgroups()
    inside = cgroup / "short"
    inside.mkdir()
    number = inside.stat().st_ino
    assert shown(decoder) == []  # as in a tick without rows: what is there now is remembered
    inside.rmdir()
    assert shown(decoder, number) == [f"/{cgroup.name}/short"]


def test_a_cgroup_that_was_never_seen_is_shown_by_its_id() -> None:
    assert shown(Cgroups(), 2**64 - 1, 0) == [str(2**64 - 1), "0"]


def test_a_cgroup_made_later_is_found(cgroup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroup_decoder, "_PAUSE", 0.0)
    monkeypatch.setattr(cgroup_decoder, "_SHARE", 0)
    decoder = Cgroups()
    assert shown(decoder, cgroup.stat().st_ino) == [f"/{cgroup.name}"]
    later = cgroup / "later"
    later.mkdir()
    try:
        assert shown(decoder, later.stat().st_ino) == [f"/{cgroup.name}/later"]
    finally:
        later.rmdir()


def test_without_cgroup_v2_ids_are_shown(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text("tmpfs /tmp tmpfs rw 0 0\n")
    assert shown(Cgroups(mounts), 7) == ["7"]
    assert shown(Cgroups(tmp_path / "none"), 7) == ["7"]


def test_a_mount_whose_name_is_escaped_is_read(tmp_path: Path) -> None:
    place = tmp_path / "c groups"
    (place / "web").mkdir(parents=True)
    mounts = tmp_path / "mounts"
    mounts.write_text(f"cgroup2 {tmp_path}/c\\040groups cgroup2 rw 0 0\n")
    assert shown(Cgroups(mounts), (place / "web").stat().st_ino) == ["/web"]


def test_walks_and_memory_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(20):
        (tmp_path / "c" / str(i)).mkdir(parents=True)
    mounts = tmp_path / "mounts"
    mounts.write_text(f"cgroup2 {tmp_path}/c cgroup2 rw 0 0\n")
    monkeypatch.setattr(cgroup_decoder, "_MOST_WALKED", 5)
    decoder = Cgroups(mounts)
    ids = [(tmp_path / "c" / str(i)).stat().st_ino for i in range(20)]
    found = shown(decoder, *ids)
    assert sum(one.startswith("/") for one in found) == 4
    assert all(one.startswith("/") or one.isdigit() for one in found)
    monkeypatch.setattr(cgroup_decoder, "_MOST_KNOWN", 3)
    shown(Cgroups(mounts), *ids)
    decoder = Cgroups(mounts)
    shown(decoder, *ids)
    assert len(decoder._known) == 3


def test_a_long_path_keeps_its_end(tmp_path: Path) -> None:
    deep = tmp_path / "c" / ("x" * 200) / ("y" * 200)
    deep.mkdir(parents=True)
    mounts = tmp_path / "mounts"
    mounts.write_text(f"cgroup2 {tmp_path}/c cgroup2 rw 0 0\n")
    (path,) = shown(Cgroups(mounts), deep.stat().st_ino)
    assert (len(path), path[-201:]) == (256, "/" + "y" * 200)


def test_users_have_the_names_that_the_c_library_gives() -> None:
    numbers = [0, pwd.getpwnam("nobody").pw_uid, 4_000_000_000]
    found = Users().names(np.array(numbers, "<u4")).tolist()
    assert found == [pwd.getpwuid(0).pw_name, "nobody", "4000000000"]


def test_a_changed_list_of_users_is_read_again_and_odd_lines_are_passed_over(tmp_path: Path) -> None:
    passwd = tmp_path / "passwd"
    users = Users(passwd)
    column = np.array([5, 6], "<u4")
    assert users.names(column).tolist() == ["5", "6"]
    passwd.write_text("first:x:5:5::/:/bin/sh\nagain:x:5:5::/:/bin/sh\n+\n#:\nodd:x:six:6\n:x:6:6\n")
    assert users.names(column).tolist() == ["first", "6"]
    passwd.write_text("other:x:6:6::/:/bin/sh\n")
    os.utime(passwd, ns=(1, 1))
    assert users.names(column).tolist() == ["5", "other"]
    passwd.unlink()
    assert users.names(column).tolist() == ["5", "other"]


def test_signals_have_their_names() -> None:
    numbers = [0, 9, 15, int(signal.SIGRTMIN), int(signal.SIGRTMIN) + 3, int(signal.SIGRTMAX), 33, 65]
    found = names(np.array(numbers, "<u4")).tolist()
    assert found == [b"", b"SIGKILL", b"SIGTERM", b"SIGRTMIN", b"SIGRTMIN+3", b"SIGRTMAX", b"33", b"65"]

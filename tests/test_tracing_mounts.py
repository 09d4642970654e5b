"""The loader's own mounts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from apart import apart
from bpfleet.errors import UnsupportedError
from bpfleet.loader.tracing_mounts import mount_privately

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
MOUNTS = Path("/proc/self/mountinfo")


def test_tracefs_and_bpffs_are_there_for_the_loader() -> None:
    def seen() -> tuple[bool, str]:
        lines = MOUNTS.read_text().splitlines()
        bpf = next(line for line in reversed(lines) if line.split(" ")[4] == "/sys/fs/bpf")
        return Path("/sys/kernel/tracing/events/sched/sched_switch/id").exists(), bpf.partition(" - ")[
            2
        ].split(" ")[0]

    assert apart(seen) == (True, "bpf")


def test_the_hosts_mounts_are_as_before() -> None:
    before, namespace = MOUNTS.read_text(), os.readlink("/proc/self/ns/mnt")
    inside, inner_namespace = apart(lambda: (MOUNTS.read_text(), os.readlink("/proc/self/ns/mnt")))
    assert inside != before
    assert inner_namespace != namespace
    assert MOUNTS.read_text() == before


def test_a_second_call_mounts_nothing_more() -> None:
    def twice() -> tuple[list[str], list[str]]:
        def places() -> list[str]:
            return sorted(line.split(" ")[4] for line in MOUNTS.read_text().splitlines())

        once = places()
        mount_privately()
        return once, places()

    once, again = apart(twice)
    assert once == again


def test_without_the_right_to_mount_the_remedy_is_told() -> None:
    def as_nobody() -> None:
        os.setuid(65534)
        mount_privately()

    with pytest.raises(UnsupportedError, match="Operation not permitted") as error:
        apart(as_nobody, mounts=False)
    assert "CAP_SYS_ADMIN" in error.value.remedy

"""The dnslat collector in the kernel, against lookups whose number, names and durations are known."""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from apart import apart
from bpfleet import kernel
from bpfleet.errors import ConfigError
from bpfleet.settings import convert
from bpfleet_plugins.collectors.dnslat import DnslatSettings
from dnslat_attached import LIBC, attached, look_up, named, private_dns

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture(scope="module")
def lookups(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A C program of threads that look up at once; Python's own threads hardly ever meet."""
    made = tmp_path_factory.mktemp("lookups") / "lookups"
    source = Path(__file__).with_name("lookups.c")
    subprocess.run(["cc", "-O2", "-pthread", "-o", made, source], check=True)
    return made


SLOTS, COUNT, TOTAL = slice(0, 32), 32, 33


def test_lookups_from_many_threads_count_as_exactly_as_many(lookups: Path) -> None:
    threads, calls = 2, 200_000

    def run() -> tuple[tuple[int, ...], tuple[int, ...]]:
        one = attached()
        subprocess.run([lookups, str(threads), "1", str(calls)], check=True)
        return one.rows("latency")[b"round0"], one.rows("hosts")[b"10.8.0.0"]

    latency, host = apart(run)
    assert latency[COUNT] == threads * calls
    assert sum(latency[SLOTS]) == threads * calls
    assert host[0] == threads * calls
    assert host[1] == latency[TOTAL]
    assert 0 < host[2] <= host[1]


def test_threads_that_meet_at_a_new_key_all_count(lookups: Path) -> None:
    threads, rounds = 2, 3000

    def run() -> tuple[Mapping[bytes, tuple[int, ...]], Mapping[bytes, tuple[int, ...]], int, int]:
        one = attached(DnslatSettings(commands=2 * rounds, hosts=4 * rounds))
        subprocess.run([lookups, str(threads), str(rounds), "1"], check=True)
        return one.rows("latency"), one.rows("hosts"), one.failed("latency"), one.failed("hosts")

    latency, hosts, *failed = apart(run)
    for number in range(rounds):
        assert latency[f"round{number}".encode()][COUNT] == threads
        assert hosts[f"10.8.{number // 250}.{number % 250}".encode()][0] == threads
    assert failed == [0, 0]


@pytest.mark.parametrize("function", ["gethostbyname", "gethostbyname2", "getaddrinfo"])
def test_each_of_the_three_functions_is_seen(function: str) -> None:
    arguments = {
        "gethostbyname": (b"127.0.0.77",),
        "gethostbyname2": (b"127.0.0.77", socket.AF_INET),
        "getaddrinfo": (b"127.0.0.77", None, None, ctypes.byref(ctypes.c_void_p())),
    }[function]

    def run() -> int:
        one = attached()
        for _ in range(6):
            getattr(LIBC, function)(*arguments)
        return one.rows("hosts")[b"127.0.0.77"][0]

    assert apart(run) == 6


def test_a_call_without_a_name_is_no_lookup() -> None:
    def run() -> int:
        one = attached()
        named("nameless")
        for _ in range(3):
            look_up(None)
        look_up("10.0.0.1")
        return one.rows("latency")[b"nameless"][COUNT]

    assert apart(run) == 1


def test_a_long_name_is_cut_and_leaves_nothing_behind_a_short_one() -> None:
    def run() -> set[bytes]:
        one = attached()
        for host in ("a" * 63, "b" * 64, "c" * 200, "short", "d" * 200, "short"):
            look_up(host)
        counted = one.rows("hosts")
        assert counted[b"short"][0] == 2
        return {host for host in counted if host.strip(b"abcd") in (b"", b"short")}

    assert apart(run) == {b"a" * 63, b"b" * 63, b"c" * 63, b"d" * 63, b"short"}


def test_a_name_in_memory_that_was_never_touched_is_read_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "names").write_bytes(b"192.0.2.55\0")

    def run() -> dict[bytes, tuple[int, ...]]:
        one = attached()
        with open(tmp_path / "names", "r+b") as file:
            # As a string literal of a program that has just started: mapped, not yet paged in.
            page = mmap.mmap(file.fileno(), 11, mmap.MAP_PRIVATE)
        LIBC.gethostbyname(ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(page))))
        return one.rows("hosts")

    assert apart(run)[b"192.0.2.55"][0] == 1


def test_lookups_beyond_the_room_for_commands_are_counted_as_refused() -> None:
    def run() -> tuple[int, int, int, int]:
        one = attached(DnslatSettings(commands=4))
        for number in range(10):
            named(f"comm{number}")
            for _ in range(5):
                look_up("10.3.3.3")
        latency = one.rows("latency")
        counted = sum(row[COUNT] for row in latency.values())
        return (
            len(latency),
            counted + one.failed("latency"),
            one.failed("latency"),
            one.rows("hosts")[b"10.3.3.3"][0],
        )

    entries, together, refused, by_host = apart(run)
    assert entries == 4
    assert refused >= 30
    assert together >= 50
    assert by_host == 50


def test_hosts_looked_up_least_recently_make_room() -> None:
    def run() -> tuple[int, int, bool]:
        one = attached(DnslatSettings(hosts=512))
        for number in range(3000):
            look_up(f"10.4.{number // 250}.{number % 250}")
        hosts = one.rows("hosts")
        return len(hosts), one.failed("hosts"), b"10.4.11.249" in hosts

    entries, refused, newest = apart(run)
    assert entries <= 512
    assert refused == 0
    assert newest


def test_a_lookup_that_takes_263_ms_is_said_to() -> None:
    def run() -> tuple[tuple[int, ...], tuple[int, ...], int]:
        private_dns(0.263)
        one = attached()
        named("waiting")
        began = time.monotonic_ns()
        LIBC.gethostbyname(b"slow.example.")
        return (
            one.rows("latency")[b"waiting"],
            one.rows("hosts")[b"slow.example."],
            time.monotonic_ns() - began,
        )

    latency, host, outside = apart(run)
    count, total, longest = host
    assert count == 1
    assert 263_000_000 <= longest <= outside
    assert total == longest
    # Slot i counts 2^i up to 2^(i+1) us; 2^18 us are 262 ms.
    assert latency[SLOTS].index(1) == (longest // 1000).bit_length() - 1


def test_the_longest_lookup_is_kept() -> None:
    def run() -> tuple[int, ...]:
        private_dns(0.1)
        one = attached()
        LIBC.gethostbyname(b"slow.example.")
        for _ in range(50):
            # No query: a name that is no name.
            LIBC.gethostbyname(b"10.0.0.1")
        return one.rows("hosts")[b"slow.example."] + one.rows("hosts")[b"10.0.0.1"]

    slow_count, slow_total, slow_longest, count, total, longest = apart(run)
    assert (slow_count, count) == (1, 50)
    assert slow_longest == slow_total >= 100_000_000
    assert total / 50 <= longest < total


def test_a_process_killed_in_a_lookup_leaves_no_count_behind() -> None:
    def run() -> tuple[bool, int, str]:
        private_dns(3)
        one = attached()
        pid = os.fork()
        if pid == 0:
            LIBC.gethostbyname(b"never.example.")
            os._exit(0)
        calls = next(made.fd for made in one.opened.maps() if made.name == "calls")
        found = ctypes.create_string_buffer(16)
        for _ in range(200):
            if kernel.next_key(calls, 0, ctypes.addressof(found)):
                break
            time.sleep(0.01)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        look_up("10.0.0.1")
        hosts = one.rows("hosts")
        return b"never.example." in hosts, hosts[b"10.0.0.1"][0], kernel.map_info(calls).type_name

    # What the dead call left in `calls` is bounded: the map makes room by itself.
    assert apart(run) == (False, 1, "lru_hash")


def test_counts_are_those_of_gethostlatency() -> None:
    tool = Path("/usr/sbin/gethostlatency")
    if not tool.exists():
        pytest.skip("libbpf-tools is not installed")
    hosts = [f"10.77.0.{number}" for number in range(5)]

    def run() -> tuple[dict[str, int], dict[str, int]]:
        one = attached()
        theirs = subprocess.Popen(["stdbuf", "-oL", str(tool)], stdout=subprocess.PIPE, text=True)
        assert theirs.stdout is not None
        assert theirs.stdout.readline().startswith("TIME")
        # It says its heading once it is attached.
        before = {host: one.rows("hosts").get(host.encode(), (0,))[0] for host in hosts}
        for number, host in enumerate(hosts):
            for _ in range(10 * (number + 1)):
                look_up(host)
        lines: list[str] = []
        for _ in range(10 * sum(range(1, 6))):
            lines.append(theirs.stdout.readline())
        theirs.send_signal(signal.SIGINT)
        lines += theirs.communicate(timeout=30)[0].splitlines()
        told = {host: sum(line.split()[-1:] == [host] for line in lines) for host in hosts}
        return told, {host: one.rows("hosts")[host.encode()][0] - before[host] for host in hosts}

    theirs, ours = apart(run)
    assert ours == theirs
    assert ours == {host: 10 * (number + 1) for number, host in enumerate(hosts)}


@pytest.mark.parametrize("setting", ["hosts", "commands"])
def test_a_map_without_room_is_refused_as_a_setting(setting: str) -> None:
    with pytest.raises(ConfigError, match=f"{setting} is 0"):
        convert({setting: 0}, DnslatSettings, where="[collectors.dnslat]")

"""The dnslat collector attached in this process, and a name server of the test's own."""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bpfleet import kernel
from bpfleet.loader.bcc import BccObject, open_bcc
from bpfleet.loader.schema_check import check_schema
from bpfleet.protocol import Load
from bpfleet_plugins.collectors.dnslat import DnslatSettings, bpfleet_collectors

__all__ = ["LIBC", "Dnslat", "attached", "look_up", "named", "private_dns"]

(COLLECTOR,) = bpfleet_collectors()
LIBC = ctypes.CDLL("libc.so.6", use_errno=True)
PR_SET_NAME = 15
DEFAULTS = DnslatSettings()


@dataclass
class Dnslat:
    """The collector, loaded and attached in this process."""

    opened: BccObject

    def rows(self, name: str) -> dict[bytes, tuple[int, ...]]:
        """Key bytes up to the first NUL → the value's u64s; fails where two keys have the same text."""
        fd = next(one.fd for one in self.opened.maps() if one.name == name)
        info = kernel.map_info(fd)
        key, value = ctypes.create_string_buffer(info.key_size), ctypes.create_string_buffer(info.value_size)
        found: dict[bytes, tuple[int, ...]] = {}
        previous = 0
        for _ in range(100_000):
            if not kernel.next_key(fd, previous, ctypes.addressof(key)):
                break
            previous = ctypes.addressof(key)
            assert kernel.lookup(fd, previous, ctypes.addressof(value))
            text = key.raw.partition(b"\0")[0]
            assert text not in found, "stale bytes behind the text make a second key of it"
            found[text] = struct.unpack(f"={info.value_size // 8}Q", value.raw)
        return found

    def failed(self, name: str) -> int:
        """Refused inserts of a map."""
        fd = next(one.fd for one in self.opened.maps() if one.name == f"{name}_failed_inserts")
        key, value = ctypes.c_uint32(0), ctypes.c_uint64()
        assert kernel.lookup(fd, ctypes.addressof(key), ctypes.addressof(value))
        return value.value


def attached(settings: DnslatSettings = DEFAULTS) -> Dnslat:
    assert COLLECTOR.knobs is not None
    source = COLLECTOR.program.source
    opened = open_bcc(
        Load(
            collector="dnslat",
            kind="bcc",
            source=str(source),
            maps=COLLECTOR.maps,
            attach=tuple((one.program, one.kind, one.target, one.symbol) for one in COLLECTOR.attach),
            knobs=dict(COLLECTOR.knobs(settings)),
        ),
        source.read_text(),
    )
    check_schema("dnslat", COLLECTOR.maps, {one.name: one for one in opened.maps()})
    opened.attach(COLLECTOR.attach)
    return Dnslat(opened)


def look_up(host: str | None) -> None:
    """A real call of getaddrinfo that asks no server."""
    with suppress(socket.gaierror):
        # As bytes: Python checks text against the rules for names first.
        socket.getaddrinfo(host and host.encode(), 80, flags=socket.AI_NUMERICHOST)


def named(comm: str) -> None:
    """Name this thread."""
    LIBC.prctl(PR_SET_NAME, comm.encode())


def private_dns(answer_after: float) -> None:
    """In this process's own network and mounts: a name server that says of every name that there is none."""
    assert LIBC.unshare(0x40000000) == 0  # CLONE_NEWNET
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        request = struct.pack("16sH14x", b"lo", 0x1 | 0x40)  # IFF_UP | IFF_RUNNING
        fcntl.ioctl(one, 0x8914, request)  # SIOCSIFFLAGS
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 53))
    for name, text in {
        "resolv.conf": "nameserver 127.0.0.1\noptions attempts:1 timeout:20\n",
        "nsswitch.conf": "hosts: dns\n",
    }.items():
        path = Path(f"/tmp/dnslat-{os.getpid()}-{name}")
        path.write_text(text)
        # In the mount namespace of `apart`; the host's /etc is as before.
        assert LIBC.mount(bytes(path), f"/etc/{name}".encode(), None, ctypes.c_ulong(4096), None) == 0
        path.unlink()

    def serve() -> None:
        while True:
            query, asker = server.recvfrom(512)
            time.sleep(answer_after)
            # RFC 1035: a response (bit 15) with recursion (8, 7) and code 3, no such name.
            server.sendto(query[:2] + b"\x81\x83" + query[4:], asker)

    threading.Thread(target=serve, daemon=True).start()

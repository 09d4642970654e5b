"""Decoders: plugins that make columns of columns."""

from __future__ import annotations

import errno
import functools
import ipaddress
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent_process import Agent, run
from bpfleet import kernel_enum
from bpfleet.errors import ConfigError
from bpfleet.layout import Leaf
from bpfleet.spec import Decoder
from bpfleet.wire import columns_of
from bpfleet.worker.decoding import decoded_columns
from bpfleet_plugins.decoders.enum import named_by
from bpfleet_plugins.decoders.errno import names
from bpfleet_plugins.decoders.ethertype import names as ethertype_names
from bpfleet_plugins.decoders.interface import Interfaces
from bpfleet_plugins.decoders.ip import addresses
from bpfleet_plugins.decoders.port import numbers as ports
from bpfleet_plugins.decoders.protocol import names as protocol_names
from bpfleet_plugins.decoders.syscall import named_on, table
from distributions import distribution

Start = Callable[..., Agent]

SOURCE = """
#include <bpfleet/bpfleet.h>

struct call { __u32 tgid; __s32 result; };

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 4096);
    __type(key, struct call);
    __type(value, __u64);
} calls SEC(".maps");

SEC("tracepoint/syscalls/sys_exit_getpgid")
int on_exit(struct trace_event_raw_sys_exit *ctx)
{
    struct call key = {.tgid = bpf_get_current_pid_tgid() >> 32, .result = ctx->ret};
    __u64 none = 0, *count;

    if (ctx->ret > 0)
        return 0;
    bpf_map_update_elem(&calls, &key, &none, BPF_NOEXIST);
    count = bpf_map_lookup_elem(&calls, &key);
    if (count)
        __sync_fetch_and_add(count, 1);
    return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
"""

PLUGIN = """
from bpfleet import Decoder, hookimpl

calls = []

def double(column):
    calls.append(1)
    if len(calls) % 2:
        raise RuntimeError("every second time")
    return column.astype("i8") * 2

@hookimpl
def bpfleet_decoders():
    return [Decoder(name="double", help="twice as much", ctype="s64", decode=double)]
"""


def source(folder: Path, decoder: str) -> Path:
    made = folder / "fail.bpf.c"
    made.write_text(SOURCE)
    (folder / "fail.toml").write_text(f'[maps.calls.fields.result]\ndecode = "{decoder}"\n')
    return made


def fail(times: int) -> int:
    """Make a process that fails so many times with ESRCH; its pid."""
    script = """
import os
for _ in range(%d):
    try:
        os.getpgid(1 << 22)
    except ProcessLookupError:
        pass
"""
    started = subprocess.Popen(["/usr/bin/python3", "-c", script % times])
    assert started.wait(30) == 0
    return started.pid


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@needs_root
def test_a_field_that_names_a_decoder_gets_a_column_more(start_agent: Start, tmp_path: Path) -> None:
    agent = start_agent(f'[agent]\ninterval = "100ms"\n[collectors."{source(tmp_path, "errno")}"]\n')
    agent.next_snapshot("fail", "calls")
    pid = fail(40)
    snapshot = agent.next_snapshot("fail", "calls")
    mine = [row for row in snapshot["rows"] if row["tgid"] == pid]
    assert mine == [{"tgid": pid, "result": -3, "value": 40, "result_errno": "ESRCH"}]
    assert snapshot["losses"] == {}
    schema = next(one for one in agent.records if one["kind"] == "schema" and one["map"] == "calls")
    made = next(one for one in schema["columns"] if one["name"] == "result_errno")
    assert (made["part"], made["type"], made["count"], made["meaning"]) == ("value", "char", 24, "label")


@needs_root
def test_a_decoder_that_fails_costs_its_column_and_is_counted(start_agent: Start, tmp_path: Path) -> None:
    environment = distribution(tmp_path, "doubles", {"decoder.double": "doubles"}, PLUGIN)
    config = f'[agent]\ninterval = "100ms"\n[collectors."{source(tmp_path, "double")}"]\n'
    agent = start_agent(config, **environment)
    agent.next_snapshot("fail", "calls")
    pid = fail(7)
    found: dict[Any, Any] = {}
    for _ in range(6):
        snapshot = agent.next_snapshot("fail", "calls")
        (row,) = [row for row in snapshot["rows"] if row["tgid"] == pid]
        assert (row["result"], row["value"]) == (-3, 7)
        found[row["result_double"]] = snapshot["losses"].get("not_decoded", 0) == len(snapshot["rows"])
    assert found == {-6: False, 0: True}
    assert agent.stderr.count("decoder 'double' failed on column 'result_double': RuntimeError") == 1


@needs_root
def test_a_decoder_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    done = run("once", str(source(tmp_path, "errrno")), "--after", "10ms")
    assert done.returncode == 2
    assert "there is no decoder 'errrno'" in done.stderr
    assert "did you mean 'errno'?" in done.stderr


@needs_root
def test_a_field_may_name_an_enum_of_the_kernel(start_agent: Start, tmp_path: Path) -> None:
    made = source(tmp_path, "enum:HI_SOFTIRQ")
    # ESRCH is 3; as if it were a softirq.
    made.write_text(made.read_text().replace("ctx->ret > 0", "ctx->ret != -3").replace("ctx->ret}", "3}"))
    agent = start_agent(f'[agent]\ninterval = "100ms"\n[collectors."{made}"]\n')
    agent.next_snapshot("fail", "calls")
    pid = fail(5)
    rows = agent.next_snapshot("fail", "calls")["rows"]
    mine = [row for row in rows if row["tgid"] == pid]
    assert mine == [{"tgid": pid, "result": 3, "value": 5, "result_enum": "NET_RX_SOFTIRQ"}]


@needs_root
@pytest.mark.parametrize(
    ("said", "what"), [("enum", "takes an argument"), ("errno:x", "takes no argument"), ("enum:", "takes an")]
)
def test_an_argument_where_it_does_not_belong(tmp_path: Path, said: str, what: str) -> None:
    done = run("once", str(source(tmp_path, said)), "--after", "10ms")
    assert done.returncode == 2
    assert what in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("name", "ctype"), [("Upper", "u32"), ("good", "float"), ("good", "u64[0]")])
def test_a_decoder_that_makes_no_sense_is_refused(name: str, ctype: str) -> None:
    with pytest.raises(ConfigError):
        Decoder(name=name, help="", ctype=ctype, decode=lambda column: column)


@pytest.mark.parametrize(
    "wrong", [lambda c: c[:1], lambda c: None, lambda c: np.zeros((len(c), 2)), lambda c: 1 / 0]
)
def test_what_a_decoder_returns_is_checked(wrong: Any) -> None:
    leaves = [Leaf("number", 0, "u32", decode="x")]
    decoder = Decoder(name="x", help="", ctype="u32", decode=wrong)
    (column,) = decoded_columns(leaves, columns_of(leaves, []), {"x": decoder})
    made, failed = column.make([np.array([3, 1, 3], "<u4")])
    assert (made.tolist(), failed) == ([0, 0, 0], 3)


def test_values_that_come_again_are_decoded_once_and_in_place() -> None:
    given: list[list[int]] = []

    def shown(column: Any) -> Any:
        given.append(column.tolist())
        return np.array([f"\N{DEGREE SIGN}{number}" for number in column.tolist()])

    leaves = [Leaf("number", 0, "u32", decode="x"), Leaf("number_x", 4, "u32")]
    decoder = Decoder(name="x", help="", ctype="char[8]", decode=shown)
    (column,) = decoded_columns(leaves, columns_of(leaves, []), {"x": decoder})
    assert column.column.name == "number_x_"
    made, failed = column.make([np.array([3, 1, 3, 1], "<u4"), np.zeros(4, "<u4")])
    assert [one.decode() for one in made.tolist()] == ["\N{DEGREE SIGN}3", "\N{DEGREE SIGN}1"] * 2
    assert (given, failed) == ([[1, 3]], 0)


def test_errors_have_their_names_whatever_their_sign() -> None:
    numbers = np.array([0, errno.ENOENT, -errno.EPERM, 100_000, 516], "<i4")
    assert names(numbers).tolist() == [b"", b"ENOENT", b"EPERM", b"100000", b"ERESTART_RESTARTBLOCK"]


def test_system_calls_have_the_names_that_the_headers_have() -> None:
    """The table is made by a program; made anew from this machine's headers it says the same."""
    made = subprocess.run(
        [sys.executable, Path(__file__).parent.parent / "bpf/syscall_names.py"],
        check=True,
        capture_output=True,
        text=True,
    )
    for line in made.stdout.splitlines():
        abi, number, name = line.split()
        assert table(abi)[int(number)] == name


@pytest.mark.parametrize(
    ("machine", "number", "name"),
    [
        ("x86_64", 0, "read"),
        ("x86_64", 257, "openat"),
        ("x86_64", 467, "open_tree_attr"),
        ("x86_64", 9999, "9999"),
        ("x86_64", 1 << 29 | 20, "i386:getpid"),
        ("x86_64", 1 << 30 | 1, "x32:write"),
        ("x86_64", (1 << 29) - 1, "invalid"),
        ("aarch64", 56, "openat"),
        ("aarch64", 25, "fcntl"),
        ("aarch64", 1 << 29 | 3, "arm:3"),
        ("riscv64", 3, "3"),
    ],
)
def test_a_system_call_by_its_number(machine: str, number: int, name: str) -> None:
    assert named_on(machine, np.array([number], "<u4")).tolist() == [name.encode()]
    assert named_on(machine, np.array([-1], "<i4")).tolist() == [b"-1"]


@functools.cache
def bpftool_enums() -> str:
    """The kernel's types as C, by bpftool, a reader of BTF that is not ours."""
    command = ["bpftool", "btf", "dump", "file", "/sys/kernel/btf/vmlinux", "format", "c"]
    environment = os.environ | {"PATH": f"/usr/sbin:{os.environ['PATH']}"}
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout


@pytest.mark.parametrize(
    "enum", ["skb_drop_reason", "bpf_map_type", "req_op", "HI_SOFTIRQ", "TCP_ESTABLISHED"]
)
def test_an_enum_has_the_names_that_bpftool_shows(enum: str) -> None:
    body = re.search(rf"enum {enum} {{([^}}]*)}}", bpftool_enums()) or re.search(
        rf"enum {{([^}}]*\b{enum} = [^}}]*)}}", bpftool_enums()
    )
    assert body
    shown: dict[int, str] = {}
    for name, value in re.findall(r"(\w+) = (-?\d+)", body[1]):
        shown.setdefault(int(value), name)
    assert dict(kernel_enum(enum)) == shown
    numbers = np.array([*shown, 999_999], "<i8")
    assert named_by(enum)(numbers).tolist() == [name.encode() for name in [*shown.values(), "999999"]]


def test_a_negative_value_is_named_where_the_column_has_no_sign() -> None:
    value, name = next((value, name) for value, name in kernel_enum("rpm_status").items() if value < 0)
    assert named_by("rpm_status")(np.array([value & 0xFFFFFFFF], "<u4")).tolist() == [name.encode()]


def test_an_enum_that_the_kernel_lacks_leaves_numbers(tmp_path: Path) -> None:
    assert kernel_enum("no_such_enum") == {}
    assert named_by("no_such_enum")(np.array([7, -7], "<i4")).tolist() == [b"7", b"-7"]
    (tmp_path / "broken").write_bytes(b"no BTF at all")
    assert kernel_enum("skb_drop_reason", tmp_path / "broken") == {}
    assert kernel_enum("skb_drop_reason", tmp_path / "absent") == {}


@pytest.mark.parametrize("text", ["10.0.0.1", "255.1.2.3", "2001:db8::1", "::"])
def test_addresses_are_shown_as_people_write_them(text: str) -> None:
    packed = ipaddress.ip_address(text).packed
    assert addresses(np.array([packed] * 3, f"V{len(packed)}")).tolist() == [text.encode()] * 3
    if len(packed) == 4:
        assert addresses(np.frombuffer(packed, "<u4")).tolist() == [text.encode()]
        inside = b"\0" * 10 + b"\xff\xff" + packed
        assert addresses(np.frombuffer(inside, "<u4").reshape(1, 4)).tolist() == [text.encode()]


def test_protocols_and_ethertypes_have_their_names() -> None:
    numbers = np.array([0, 6, 17, 58, 253], "u1")
    assert protocol_names(numbers).tolist() == [b"", b"tcp", b"udp", b"icmpv6", b"253"]
    assert [socket.getprotobyname(name) for name in ("tcp", "udp", "icmp", "gre")] == [6, 17, 1, 47]
    types = np.array([0, 0x0800, 0x86DD, 0x0806, 0x1234], "<u2")
    assert ethertype_names(types).tolist() == [b"", b"ipv4", b"ipv6", b"arp", b"0x1234"]


def test_ports_in_network_order_are_shown_as_numbers() -> None:
    kept = np.array([socket.htons(443), socket.htons(8080)], "<u2")
    assert ports(kept).tolist() == ports(kept.astype("<u4")).tolist() == [443, 8080]


@needs_root
def test_interfaces_have_their_names_also_when_they_have_gone() -> None:
    name = f"bpfd{os.getpid()}"[:15]
    subprocess.run(["ip", "link", "add", name, "type", "veth", "peer", "name", f"{name}p"], check=True)
    try:
        number = socket.if_nametoindex(name)
        interfaces = Interfaces()
        asked = np.array([0, socket.if_nametoindex("lo"), number, 1 << 30], "<u4")
        assert interfaces.names(asked).tolist() == [b"", b"lo", name.encode(), str(1 << 30).encode()]
    finally:
        subprocess.run(["ip", "link", "delete", name], check=True)
    assert interfaces.names(np.array([number], "<u4")).tolist() == [name.encode()]


def test_names_of_interfaces_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "if_nameindex", lambda: [(at, f"if{at}") for at in range(1, 100)])
    interfaces = Interfaces(most=10)
    assert interfaces.names(np.array([1, 2], "<u4")).tolist() == [b"if1", b"if2"]
    assert len(interfaces._known) == 10
    # What was asked for stays, and nothing is read anew so soon.
    assert interfaces.names(np.array([1, 2, 3], "<u4")).tolist() == [b"if1", b"if2", b"3"]

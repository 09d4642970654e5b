"""What a program's section name says of where it goes, as libbpf reads it.

    SEC("tp_btf/sched_switch")               tp_btf      sched_switch
    SEC("tracepoint/syscalls/sys_enter_openat")
                                             tracepoint  syscalls:sys_enter_openat
    SEC("?uprobe/libc.so.6:malloc+0x10")     uprobe      libc.so.6, symbol malloc, offset 16

A `?` says that the program is not loaded unless asked for.

Source of the names: `section_defs` of libbpf's libbpf.c.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["SECTION_NAMES", "AttachPoint", "attach_point"]

_WITH_TARGET = """
    kprobe kretprobe kprobe.multi kretprobe.multi kprobe.session ksyscall kretsyscall
    uprobe uretprobe uprobe.multi uretprobe.multi uprobe.session usdt
    tracepoint tp raw_tracepoint raw_tp raw_tracepoint.w raw_tp.w tp_btf
    fentry fmod_ret fexit fsession freplace lsm lsm_cgroup iter struct_ops
"""
"""Kinds that may be followed by `/target`."""

_MAY_SLEEP = """
    uprobe uretprobe uprobe.multi uretprobe.multi usdt tracepoint tp raw_tracepoint raw_tp tp_btf
    fentry fmod_ret fexit fsession lsm iter struct_ops
"""
"""Those of them that may be written with `.s`: the program may then sleep."""

_WHOLE = """
    socket sk_reuseport sk_reuseport/migrate sk_lookup sockops sk_msg netfilter
    sk_skb sk_skb/stream_parser sk_skb/stream_verdict sk_skb/verdict
    tc/ingress tc/egress tcx/ingress tcx/egress tc classifier action netkit/primary netkit/peer
    xdp xdp/devmap xdp/cpumap xdp.frags xdp.frags/devmap xdp.frags/cpumap
    lwt_in lwt_out lwt_xmit lwt_seg6local flow_dissector lirc_mode2 perf_event syscall
    cgroup_skb/ingress cgroup_skb/egress cgroup/skb cgroup/dev cgroup/sysctl
    cgroup/sock cgroup/sock_create cgroup/sock_release cgroup/post_bind4 cgroup/post_bind6
    cgroup/getsockopt cgroup/setsockopt cgroup/bind4 cgroup/bind6
    cgroup/connect4 cgroup/connect6 cgroup/connect_unix
    cgroup/sendmsg4 cgroup/sendmsg6 cgroup/sendmsg_unix
    cgroup/recvmsg4 cgroup/recvmsg6 cgroup/recvmsg_unix
    cgroup/getpeername4 cgroup/getpeername6 cgroup/getpeername_unix
    cgroup/getsockname4 cgroup/getsockname6 cgroup/getsockname_unix
"""
"""Kinds that are the whole name: where to is told when the program is attached."""

_TARGETED, _SLEEPABLE, _UNTARGETED = (
    frozenset(names.split()) for names in (_WITH_TARGET, _MAY_SLEEP, _WHOLE)
)
SECTION_NAMES = _TARGETED | _UNTARGETED | {f"{kind}.s" for kind in _SLEEPABLE}
"""Every name, without a target, that libbpf has a program type for."""

_SHORT = {"tp": "tracepoint", "raw_tracepoint": "raw_tp", "raw_tracepoint.w": "raw_tp.w", "classifier": "tc"}
_UPROBES = frozenset({"uprobe", "uretprobe", "uprobe.multi", "uretprobe.multi", "uprobe.session"})
_OFFSET = re.compile(r"(.+)\+(0[xX][0-9a-fA-F]{1,15}|0[0-7]{0,18}|[1-9][0-9]{0,17})\Z")


@dataclass(frozen=True, slots=True)
class AttachPoint:
    """Where a program goes.

    `kind` is the section's first word, in the words of `bpfleet.spec.Attach` (`tracepoint` for `tp`,
    `raw_tp` for `raw_tracepoint`), or `custom` where libbpf would not know it. `target` is `group:name` of
    a tracepoint, the function of a kprobe, the binary's path of a uprobe or USDT, else what follows the
    kind; empty where nothing says where to. `symbol` is a uprobe's function, or `provider:name` of a USDT;
    `offset` is bytes into the function. `autoload` is False after a `?`.
    """

    kind: str
    target: str = ""
    symbol: str = ""
    offset: int = 0
    sleepable: bool = False
    autoload: bool = True

    def __str__(self) -> str:
        place = f"{self.target}:{self.symbol}" if self.symbol else self.target
        return f"{self.kind} {place}".rstrip() + (f"+{self.offset:#x}" if self.offset else "")


def attach_point(section: str) -> AttachPoint:
    """Read a program's section name; never fails."""
    name = section.removeprefix("?")
    autoload = name == section
    if name in _UNTARGETED:
        return AttachPoint(_SHORT.get(name, name), sleepable=name == "syscall", autoload=autoload)
    first, slash, target = name.partition("/")
    kind = first.removesuffix(".s")
    sleepable = kind != first
    if kind not in (_SLEEPABLE if sleepable else _TARGETED) or (slash and not target):
        return AttachPoint("custom", name, autoload=autoload)
    kind = _SHORT.get(kind, kind)
    symbol, offset = "", 0
    if kind == "tracepoint":
        target = target.replace("/", ":", 1)
    elif kind == "usdt":
        target, _, symbol = target.partition(":")
    elif kind in _UPROBES:
        target, _, rest = target.partition(":")
        symbol, offset = _split_offset(rest)
    elif kind in ("kprobe", "kretprobe"):
        target, offset = _split_offset(target)
    return AttachPoint(kind, target, symbol, offset, sleepable, autoload)


def _split_offset(text: str) -> tuple[str, int]:
    match = _OFFSET.match(text)
    if not match:
        return text, 0
    number = match.group(2)
    octal = number.startswith("0") and number[1:].isdigit()
    return match.group(1), int(number, 8 if octal else 0)

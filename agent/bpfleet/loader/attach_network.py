"""Attaching to interfaces, cgroups and sockets: what sees packets."""

from __future__ import annotations

import errno
import os
import socket
import struct

from bpfleet.attach_points import attach_point
from bpfleet.errors import AttachError
from bpfleet.kernel import link_create
from bpfleet.loader.libbpf import ProgramHandle, library
from bpfleet.loader.linking import Links, link, refused
from bpfleet.spec import Attach

__all__ = ["as_plain_classifier", "attach_cgroup", "attach_socket", "attach_tcx", "attach_xdp"]

_TCX = {"tcx/ingress": 46, "tcx/egress": 47}  # enum bpf_attach_type, linux/bpf.h of 6.6
_CLASSIFIERS = (*_TCX, "tc/ingress", "tc/egress", "netkit/primary", "netkit/peer")
"""Sections that libbpf knows since 1.3; before that all of them were `SEC("tc")`."""
_BPF_PROG_TYPE_SCHED_CLS = 3
_ETH_P_ALL = 3
_SO_ATTACH_BPF = 50


def as_plain_classifier(program: ProgramHandle) -> None:
    """Before load: a program for traffic control is one, whatever libbpf knows of its section."""
    if attach_point(program.section).kind in _CLASSIFIERS:
        library().bpf_program__set_type(program.handle, _BPF_PROG_TYPE_SCHED_CLS)


def attach_xdp(program: ProgramHandle, wanted: Attach) -> Links:
    """Every packet that an interface receives, before the stack."""
    index = _interface(program, wanted)
    return link(
        lambda: library().bpf_program__attach_xdp(program.handle, index),
        program,
        f"xdp {wanted.target}",
        "one XDP program per interface: ip link show says whether another is there",
    )


def attach_tcx(program: ProgramHandle, wanted: Attach) -> Links:
    """Every packet through an interface, at the traffic control hook; from Linux 6.6.

    Before that the kernel has no link for it: a filter set through netlink would outlive the agent.
    """
    index = _interface(program, wanted)
    try:
        return (link_create(program.fd, index, _TCX[wanted.kind]),)
    except OSError as error:
        old = error.errno == errno.EINVAL
        raise refused(
            program,
            f"{wanted.kind} {wanted.target}",
            "it takes Linux 6.6; attach it as xdp, or at a cgroup" if old else "",
            code=error.errno or 0,
        ) from None


def attach_cgroup(program: ProgramHandle, wanted: Attach) -> Links:
    """What a cgroup's processes do; which hook, the program's section says."""
    try:
        folder = os.open(wanted.target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise refused(
            program,
            f"cgroup {wanted.target}",
            "give a directory of a cgroup v2 file system, such as /sys/fs/cgroup",
            code=error.errno or 0,
        ) from None
    try:
        return link(
            lambda: library().bpf_program__attach_cgroup(program.handle, folder),
            program,
            f"cgroup {wanted.target}",
            "give a directory of a cgroup v2 file system, such as /sys/fs/cgroup",
        )
    finally:
        os.close(folder)


def attach_socket(program: ProgramHandle, wanted: Attach) -> Links:
    """Every packet that an interface (all, without a target) sends or receives, by a raw socket's filter.

    A filter that returns 0 keeps packets out of the socket, which nobody reads.
    """
    where = f"socket {wanted.target}".rstrip()
    try:
        packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
        packets.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_BPF, struct.pack("i", program.fd))
        if wanted.target:
            packets.bind((wanted.target, 0))
    except OSError as error:
        raise refused(program, where, "ip link lists the interfaces", code=error.errno or 0) from None
    return (packets.detach(),)


def _interface(program: ProgramHandle, wanted: Attach) -> int:
    try:
        return socket.if_nametoindex(wanted.target)
    except OSError:
        names = ", ".join(name for _, name in socket.if_nameindex())
        raise AttachError(
            f"program {program.name!r}: there is no interface {wanted.target!r}",
            where=f"attach list, {wanted.kind}",
            remedy=f"this host has {names or 'none'}",
        ) from None

"""What this process may do: capabilities, limits, sysctls, seccomp, and whether it is in a container."""

from __future__ import annotations

import os
import pwd
import resource
from collections.abc import Iterator, Mapping
from pathlib import Path

from bpfleet.doctor.finding import Finding, Subject, missing, ok, unseen, warn
from bpfleet.doctor.kernel import release_numbers

__all__ = ["capabilities", "container", "limits", "root", "seccomp", "sysctls"]

# Bits are from linux/capability.h.
_BITS = {
    "CHOWN": 0,
    "DAC_OVERRIDE": 1,
    "KILL": 5,
    "SETGID": 6,
    "SETUID": 7,
    "SETPCAP": 8,
    "NET_ADMIN": 12,
    "SYS_PTRACE": 19,
    "SYS_ADMIN": 21,
    "SYS_RESOURCE": 24,
    "SYSLOG": 34,
    "PERFMON": 38,
    "BPF": 39,
}
_NEEDED = {
    "SYS_ADMIN": "the loader's own mounts, uprobes, and BPF before Linux 5.8",
    "BPF": "loading programs",
    "PERFMON": "tracing programs and perf events",
    "SETUID": "the worker giving up root",
    "SETGID": "the worker giving up root",
    "SETPCAP": "the worker giving up root for good",
    "KILL": "ending a worker that hangs",
}
_USEFUL = {
    "SYS_RESOURCE": "raising limits; Linux before 5.11 counts maps against RLIMIT_MEMLOCK",
    "NET_ADMIN": "XDP, TC and cgroup programs",
    "SYSLOG": "kernel addresses turned into names",
    "CHOWN": "making the state directory for the worker's user",
    "DAC_OVERRIDE": "reading files that are not root's",
    "SYS_PTRACE": "looking into other users' processes",
}
_PARTS_OF_SYS_ADMIN = ("BPF", "PERFMON")
_FEW_FILES = 1024


def root(subject: Subject) -> Iterator[Finding]:
    """Whether this is root, which the supervisor has to be."""
    number = os.geteuid()
    try:
        name = pwd.getpwuid(number).pw_name
    except KeyError:
        name = f"uid {number}"
    if subject.root:
        yield ok("user", "root; plugins and the network are handled by the worker, which is not")
    else:
        remedy = "run as root; the part that handles plugins and the network gives root up by itself"
        yield missing("user", f"{name}: loading BPF programs needs root", remedy)


def capabilities(subject: Subject) -> Iterator[Finding]:
    """Effective capabilities: a line for those that matter and are there, one for each that is not."""
    if not subject.root:
        yield unseen("capabilities", "those of a user who is not root say nothing of the agent's")
        return
    effective = int(_status()["CapEff"], 16)
    has = {name for name, bit in _BITS.items() if effective >> bit & 1}
    if "SYS_ADMIN" in has:
        has.update(_PARTS_OF_SYS_ADMIN)
    yield ok("capabilities", ", ".join(name for name in (*_NEEDED, *_USEFUL) if name in has) or "none")
    for name, use in _NEEDED.items():
        if name not in has:
            yield missing(f"CAP_{name}", f"this process lacks it: {use}", _granting(name))
    for name, use in _USEFUL.items():
        if name not in has:
            yield _without(name, use)


def _without(name: str, use: str) -> Finding:
    if name == "SYS_RESOURCE" and release_numbers() >= (5, 11):
        return ok(f"CAP_{name}", f"lacking, and not needed by this kernel ({use})")
    return warn(f"CAP_{name}", f"this process lacks it: {use}", _granting(name))


def _granting(name: str) -> str:
    return (
        f"add CAP_{name} to the unit's CapabilityBoundingSet=, or the container's capabilities "
        f"(docker run --cap-add {name})"
    )


def limits(subject: Subject) -> Iterator[Finding]:
    """RLIMIT_NOFILE and RLIMIT_MEMLOCK."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    detail = f"hard limit {_number(hard)}; each collector takes about ten"
    if hard != resource.RLIM_INFINITY and hard < _FEW_FILES:
        yield warn("open files", detail, "LimitNOFILE=65536 in the unit, or ulimit -Hn 65536")
    else:
        yield ok("open files", detail)
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    detail = f"limit {_number(soft)} bytes"
    if release_numbers() >= (5, 11):
        yield ok("locked memory", f"{detail}; maps are not counted against it since Linux 5.11")
    elif soft != resource.RLIM_INFINITY:
        remedy = "LimitMEMLOCK=infinity in the unit, or ulimit -l unlimited"
        yield warn("locked memory", f"{detail}, and Linux before 5.11 counts maps against it", remedy)
    else:
        yield ok("locked memory", detail)


def _number(limit: int) -> str:
    return "unlimited" if limit == resource.RLIM_INFINITY else str(limit)


def sysctls(subject: Subject) -> Iterator[Finding]:
    """What the kernel allows others, and what it hides."""
    for judge, place in (
        (judge_unprivileged_bpf, "kernel/unprivileged_bpf_disabled"),
        (judge_perf_paranoia, "kernel/perf_event_paranoid"),
        (judge_kptr_restrict, "kernel/kptr_restrict"),
    ):
        name = place.rpartition("/")[2]
        try:
            value = int(Path("/proc/sys", place).read_text())
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "it holds no number"
            yield unseen(name, f"/proc/sys/{place}: {why}", "look on the host, as root")
            continue
        yield judge(name, value)


def judge_unprivileged_bpf(name: str, value: int) -> Finding:
    """The finding for kernel.unprivileged_bpf_disabled at `value`."""
    if value == 0:
        return warn(
            name,
            "0: any user may load BPF programs; the agent needs no such right",
            f"sysctl -w kernel.{name}=2",
        )
    return ok(name, f"{value}: only privileged processes load programs; the worker gets fds")


def judge_perf_paranoia(name: str, value: int) -> Finding:
    """The finding for kernel.perf_event_paranoid at `value`."""
    return ok(name, f"{value}: it restricts other users, not the loader, which has CAP_PERFMON")


def judge_kptr_restrict(name: str, value: int) -> Finding:
    """The finding for kernel.kptr_restrict at `value`."""
    if value >= 2:
        remedy = f"sysctl -w kernel.{name}=1"
        return warn(name, f"{value}: kernel addresses are hidden from root too, so they get no names", remedy)
    return ok(name, f"{value}: root sees kernel addresses")


def seccomp(subject: Subject) -> Iterator[Finding]:
    """Whether a filter of system calls is on this process; container runtimes deny bpf(2) by one."""
    mode = _status().get("Seccomp")
    if mode is None:
        yield ok("seccomp", "not in this kernel")
    elif mode == "0":
        yield ok("seccomp", "no filter on this process")
    else:
        yield warn(
            "seccomp",
            "a filter is on this process; where it denies bpf, perf_event_open, mount or unshare, "
            "that shows in what was tried",
            "docker run --security-opt seccomp=unconfined, or a SystemCallFilter= that names these",
        )


# include/linux/proc_ns.h: the initial namespaces have inode numbers of their own.
_INITIAL = {"user": 0xEFFFFFFD, "pid": 0xEFFFFFFC}
_SIGNS = {
    "/.dockerenv": "docker",
    "/run/.containerenv": "podman",
    "/run/systemd/container": "systemd",
    "/var/run/secrets/kubernetes.io": "kubernetes",
}


def container(subject: Subject) -> Iterator[Finding]:
    """Namespaces: BPF sees the whole host, the agent's own view may be a part of it."""
    signs = [f"{place} ({name})" for place, name in _SIGNS.items() if os.path.exists(place)]
    yield from judge_namespaces({name: _inode(name) for name in _INITIAL}, signs)


def judge_namespaces(inodes: Mapping[str, int | None], signs: list[str]) -> Iterator[Finding]:
    """The findings for these namespaces (inode by name), and signs of a container in the file system."""
    apart = [name for name, initial in _INITIAL.items() if inodes.get(name) not in (initial, None)]
    where = f"; signs of a container: {', '.join(signs)}" if signs else ""
    if "user" in apart:
        detail = "a user namespace of its own: root in it may not use BPF, whatever its capabilities say"
        yield missing(
            "container", detail + where, "run on the host, or in a container without user namespace"
        )
    elif "pid" in apart:
        detail = (
            "a pid namespace of its own: records carry the host's pids, which are not those seen from here"
        )
        yield warn("container", detail + where, "docker run --pid=host (Kubernetes: hostPID: true)")
    elif signs:
        yield ok(
            "container", f"pid and user namespaces are the host's{where}, so the file system is an image's"
        )
    else:
        yield ok("container", "none: pid and user namespaces are the host's")


def _inode(namespace: str) -> int | None:
    try:
        return os.stat(f"/proc/self/ns/{namespace}").st_ino
    except OSError:
        return None


def _status() -> dict[str, str]:
    lines = Path("/proc/self/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}

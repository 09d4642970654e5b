"""A program for every way to attach, compiled once and carried unchanged from kernel to kernel.

Each counts in its global `hits` what a process whose id is a knob does a known number of times: it asks for a
process group, sends packets, collects garbage.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import go_program
from bpfleet.loader.compile import object_for
from kept_maps import DRAINED_SOURCE, MAPS_SOURCE, STORAGE_SOURCE
from linked_maps import LINKED, STACK_WORDS

__all__ = ["BUILT", "LADDERS", "PROBES", "Probe", "build", "build_go_program", "file_name", "install"]

BUILT = Path(__file__).parents[2] / "build" / "kernels" / "programs"
"""Where objects are built; a virtual machine finds them at the same path."""

_HOOK = "security_task_getpgid"
"""A kernel function that getpgid(2) calls once."""

_HEAD = """#include <bpfleet/bpfleet.h>

const volatile __u32 pid = 0;
const volatile __u16 port = 0;
__u64 hits = 0;

static __always_inline int count(void)
{
	if (bpf_get_current_pid_tgid() >> 32 == pid)
		__sync_fetch_and_add(&hits, 1);
	return 0;
}
"""

_TAIL = """
char LICENSE[] SEC("license") = "Dual BSD/GPL";
"""

_ONE = """
SEC("{section}")
int probe({context})
{{
	{body}
}}
"""

# UDP over IPv4 to our port; the header of IP begins at `ip`.
_SKB = """
static __always_inline int seen(struct __sk_buff *ctx, int ip)
{
	unsigned char protocol = 0;
	__u16 to = 0;

	bpf_skb_load_bytes(ctx, ip + 9, &protocol, 1);
	bpf_skb_load_bytes(ctx, ip + 22, &to, 2);
	if (protocol == 17 && __builtin_bswap16(to) == port)
		__sync_fetch_and_add(&hits, 1);
	return 0;
}
"""
_XDP = """
static __always_inline void seen(struct xdp_md *ctx)
{
	unsigned char *data = (void *)(long)ctx->data;

	if (data + 64 > (unsigned char *)(long)ctx->data_end || data[23] != 17)
		return;
	if ((data[36] << 8 | data[37]) == port)
		__sync_fetch_and_add(&hits, 1);
}
"""
_STRUCT_OPS = """
/* Called once for each connection that chooses this way to avoid congestion. */
SEC("struct_ops/init")
void BPF_PROG(init, void *sk)
{
	count();
}

SEC("struct_ops/ssthresh")
__u32 BPF_PROG(ssthresh, void *sk)
{
	return 2;
}

SEC("struct_ops/cong_avoid")
void BPF_PROG(cong_avoid, void *sk, __u32 ack, __u32 acked)
{
}

SEC("struct_ops/undo_cwnd")
__u32 BPF_PROG(undo_cwnd, void *sk)
{
	return 2;
}

struct tcp_congestion_ops {
	void (*init)(void *sk);
	__u32 (*ssthresh)(void *sk);
	void (*cong_avoid)(void *sk, __u32 ack, __u32 acked);
	__u32 (*undo_cwnd)(void *sk);
	char name[16];
};

SEC(".struct_ops")
struct tcp_congestion_ops in_place = {
	.init = (void *)init,
	.ssthresh = (void *)ssthresh,
	.cong_avoid = (void *)cong_avoid,
	.undo_cwnd = (void *)undo_cwnd,
	.name = "bpfleet_test",
};
"""
_ITERATOR = """
struct bpf_iter__task {
	void *meta;
	struct task_struct *task;
} __attribute__((preserve_access_index));
"""

_RUNGS = (
    _HEAD
    + f"""
SEC("tp_btf/no_such_event")
int by_nothing(void *ctx) {{ return count(); }}

SEC("fentry/{_HOOK}")
int by_fentry(void *ctx) {{ return count(); }}

SEC("kprobe/{_HOOK}")
int by_kprobe(void *ctx) {{ return count(); }}

SEC("raw_tp/sys_enter")
int by_raw_tp(unsigned long long *ctx) {{ return ctx[1] == 121 ? count() : 0; }}
"""
    + _TAIL
)


@dataclass(frozen=True)
class Probe:
    """One way to attach. `per_call` is how often one event is counted; `attach` stands in its `.toml`."""

    name: str
    section: str
    event: str = "getpgid"
    context: str = "void *ctx"
    body: str = "return count();"
    before: str = ""
    attach: Mapping[str, str] | None = None
    per_call: int = 1
    needs: tuple[int, int] = (0, 0)
    """The first kernel that has it."""
    options: Sequence[str] = field(default=())
    """What must be in the kernel's configuration."""
    doctor: str = ""
    """What `bpfleet doctor` calls this kind, or one that works by the same means."""

    @property
    def source(self) -> str:
        """The C text; without a section the text before it is the program."""
        one = _ONE.format(section=self.section, context=self.context, body=self.body) if self.section else ""
        return _HEAD + self.before + one + _TAIL


def _skb(name: str, section: str, attach: Mapping[str, str], ip: int, verdict: str, **more: object) -> Probe:
    body = f"seen(ctx, {ip});\n\treturn {verdict};"
    return Probe(name, section, "packets", "struct __sk_buff *ctx", body, _SKB, attach, **more)  # type: ignore[arg-type]


_ENTERED = "return ctx[1] == 121 ? count() : 0; /* getpgid */"
_ARGUMENTS = "unsigned long long *ctx"
_KPROBES, _FTRACE = ("KPROBES", "KPROBE_EVENTS"), ("FUNCTION_TRACER", "DYNAMIC_FTRACE_WITH_DIRECT_CALLS")

_ALL = [
    Probe("tracepoint", "tracepoint/syscalls/sys_enter_getpgid", options=("FTRACE_SYSCALLS",)),
    Probe("raw_tp", "raw_tp/sys_enter", context=_ARGUMENTS, body=_ENTERED),
    Probe("tp_btf", "tp_btf/sys_enter", context=_ARGUMENTS, body=_ENTERED),
    Probe("kprobe", f"kprobe/{_HOOK}", options=_KPROBES),
    Probe("kretprobe", f"kretprobe/{_HOOK}", options=_KPROBES),
    Probe("kprobe.multi", "kprobe.multi/security_task_getpgi*", options=("FPROBE",)),
    Probe("kretprobe.multi", "kretprobe.multi/security_task_getpgi*", options=("FPROBE",)),
    Probe("ksyscall", "ksyscall/getpgid", options=_KPROBES),
    Probe("kretsyscall", "kretsyscall/getpgid", options=_KPROBES),
    Probe("fentry", f"fentry/{_HOOK}", options=_FTRACE, doctor="fentry"),
    Probe("fexit", f"fexit/{_HOOK}", options=_FTRACE, doctor="fexit"),
    Probe("fmod_ret", f"fmod_ret/{_HOOK}", options=_FTRACE, doctor="fentry"),
    Probe("lsm", "lsm/task_getpgid", options=("BPF_LSM", *_FTRACE), doctor="LSM"),
    Probe("uprobe", "uprobe/libc.so.6:getpgid"),
    Probe("uretprobe", "uretprobe/libc.so.6:getpgid"),
    Probe(
        "usdt",
        "",
        "collections",
        before="\n#include <asm/ptrace.h>\n#include <bpf/usdt.bpf.h>\n\n"
        'SEC("usdt")\nint BPF_USDT(probe, int generation)\n{\n\treturn generation == 2 ? count() : 0;\n}\n',
        attach={"kind": "usdt", "target": "PYTHON", "symbol": "python:gc__start"},
    ),
    Probe("perf_event", "perf_event", "busy", attach={"kind": "perf_event", "target": "cpu-clock"}),
    Probe(
        "xdp",
        "xdp",
        "packets",
        "struct xdp_md *ctx",
        "seen(ctx);\n\treturn XDP_PASS;",
        _XDP,
        {"kind": "xdp", "target": "lo"},
    ),
    _skb("tcx/ingress", "tc", {"kind": "tcx/ingress", "target": "lo"}, 14, "-1 /* TCX_NEXT */", needs=(6, 6)),
    _skb("tcx/egress", "tc", {"kind": "tcx/egress", "target": "lo"}, 14, "-1 /* TCX_NEXT */", needs=(6, 6)),
    # What is sent through the loopback interface passes a packet socket twice: out, then in.
    _skb("socket", "socket", {"kind": "socket", "target": "lo"}, 14, "0", per_call=2),
    _skb("cgroup", "cgroup_skb/egress", {"kind": "cgroup", "target": "CGROUP"}, 0, "1"),
    Probe(
        "iter",
        "iter/task",
        "snapshots",
        "struct bpf_iter__task *ctx",
        "struct task_struct *task = ctx->task;\n\n"
        "\tif (task && task->pid == pid)\n\t\t__sync_fetch_and_add(&hits, 1);\n\treturn 0;",
        _ITERATOR,
    ),
    Probe("struct_ops", "", "choices", before=_STRUCT_OPS, needs=(6, 4), doctor="fentry"),
    Probe(
        "syscall",
        "syscall",
        "snapshots",
        body="__sync_fetch_and_add(&hits, 1);\n\treturn 0;",
    ),
]
PROBES = {one.name: one for one in _ALL}


MORE = {
    "maps": MAPS_SOURCE,
    "storage": STORAGE_SOURCE,
    "drained": DRAINED_SOURCE,
    "rungs": _RUNGS,
    **LINKED,
}
"""Sources besides the probes, by name."""


def file_name(probe: str) -> str:
    """The collector's name, of a probe's."""
    return "at_" + probe.replace(".", "_").replace("/", "_")


def build(folder: Path = BUILT) -> Path:
    """Compile what has changed; needs no particular kernel."""
    folder.mkdir(parents=True, exist_ok=True)
    sources = {file_name(one.name): one.source for one in _ALL} | MORE
    for name, text in sources.items():
        source = folder / f"{name}.bpf.c"
        if not source.exists() or source.read_text() != text:
            source.write_text(text)
        object_for(source)
    return folder


def build_go_program() -> Path:
    """Compile a program in Go, if that has not been done."""
    made = BUILT.with_name("go") / "worker"
    if not made.exists():
        made.parent.mkdir(parents=True, exist_ok=True)
        go_program.build(made.parent)
    return made


def install(folder: Path, knobs: Mapping[str, int], places: Mapping[str, str]) -> None:
    """Put the objects into a folder of programs, each with its words.

    `places` is what words in capitals stand for in attach lists.
    """
    said = ["[knobs]", *(f"{knob} = {value}" for knob, value in knobs.items())]
    for name, probe in PROBES.items():
        words = ['before_snapshot = "probe"'] if name == "syscall" else []
        _put(folder, file_name(name), words + said + _placed(probe.attach, places))
    for name in ("maps_walk", "maps_batch", "maps_key"):
        _put(folder, name, ["[knobs]", f"pid = {knobs['pid']}"], of="maps")
    _put(folder, "drained", ["[knobs]", f"pid = {knobs['pid']}"])
    in_cgroup = _placed({"kind": "cgroup", "target": "CGROUP"}, places)
    more = {
        "stacks": STACK_WORDS.splitlines(),
        "nest": [f"[maps.{name}]\nread = false" for name in ("left", "right", "far")],
        "by_socket": in_cgroup,
    }
    for name in LINKED:
        words = [] if name == "by_socket" else ["[knobs]", f"pid = {knobs['pid']}"]
        _put(folder, name, words + more.get(name, []))
    _put(folder, "storage", in_cgroup)
    for name, rungs in LADDERS.items():
        _put(folder, name, [*said, "[ladders]", f"groups = {json.dumps(rungs)}"], of="rungs")


LADDERS = {
    "rungs_down": ["by_nothing", "by_fentry", "by_kprobe", "by_raw_tp"],
    "rungs_kprobe": ["by_nothing", "by_kprobe", "by_raw_tp", "by_fentry"],
}
"""Ladders of one object: which rung is the first that works depends on the kernel."""


def _put(folder: Path, name: str, words: Sequence[str], *, of: str = "") -> None:
    shutil.copy(BUILT / f"{of or name}.bpf.o", folder / f"{name}.bpf.o")
    (folder / f"{name}.toml").write_text("\n".join(words) + "\n")


def _placed(attach: Mapping[str, str] | None, places: Mapping[str, str]) -> list[str]:
    if attach is None:
        return []
    lines = [f'{key} = "{places.get(text, text)}"' for key, text in attach.items()]
    return ["[[attach]]", 'program = "probe"', *lines]

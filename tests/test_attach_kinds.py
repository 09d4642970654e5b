"""Attach kinds that an attach list brings: packets, samples, USDT; each with a known number of events."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent_process import Agent, run
from distributions import distribution
from test_attach import HITS, PLUGIN, QUICK, hits, start_probe, worker_program  # noqa: F401  (a fixture)

Start = Callable[..., Agent]

PACKETS = """
#include <bpfleet/bpfleet.h>

__u64 hits = 0;

#ifdef IS_XDP
/* Its context is not a socket buffer: bytes are read from the packet itself. */
static __always_inline int byte_at(struct xdp_md *ctx, int offset)
{{
	unsigned char *data = (void *)(long)ctx->data;

	return data + 64 > (unsigned char *)(long)ctx->data_end ? -1 : data[offset];
}}
typedef struct xdp_md context;
#else
static __always_inline int byte_at(struct __sk_buff *ctx, int offset)
{{
	unsigned char byte = 0;

	return bpf_skb_load_bytes(ctx, offset, &byte, 1) ? -1 : byte;
}}
typedef struct __sk_buff context;
#endif

SEC("{section}")
int probe(context *ctx)
{{
	/* UDP over IPv4 to our port; the header of IP begins at {ip}. */
	int to = byte_at(ctx, {ip} + 22) << 8 | byte_at(ctx, {ip} + 23);

	if (byte_at(ctx, {ip} + 9) == 17 && to == {port})
		__sync_fetch_and_add(&hits, 1);
	return {verdict};
}}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
"""


@pytest.fixture
def receiver() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.bind(("127.0.0.1", 0))
        made.settimeout(5)
        yield made


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A cgroup with nobody in it yet."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    root = next((Path(fields[1]) for fields in mounts if fields[2] == "cgroup2"), None)
    assert root is not None, "no cgroup v2 file system is mounted"
    made = root / f"bpfleet-test-{os.getpid()}"
    made.mkdir()
    yield made
    made.rmdir()


def start_packets(
    start_agent: Start, directory: Path, section: str, attach: str, port: int, *, ip: int, verdict: str
) -> Agent:
    source = directory / "probe.bpf.c"
    define = "#define IS_XDP\n" if section == "xdp" else ""
    source.write_text(define + PACKETS.format(section=section, ip=ip, port=port, verdict=verdict))
    module = PLUGIN.format(source=source, attach=attach, maps=HITS)
    return start_agent(QUICK, **distribution(directory, "probe", {"collector.probe": "probe"}, module))


def exchange(receiver: socket.socket, packets: int, arrive: int) -> None:
    """Send `packets` to `receiver`, of which `arrive` do."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(packets):
            sender.sendto(b"x" * 40, receiver.getsockname())
    for _ in range(arrive):
        receiver.recv(100)


@pytest.mark.parametrize(
    ("section", "attach", "seen", "verdict"),
    [
        ("xdp", 'Attach("probe", "xdp", "lo")', 1, "XDP_PASS"),
        ("tc", 'Attach("probe", "tcx/ingress", "lo")', 1, "-1 /* TCX_NEXT */"),
        ("tc", 'Attach("probe", "tcx/egress", "lo")', 1, "-1 /* TCX_NEXT */"),
        # What is sent through the loopback interface passes a packet socket twice: out, then in.
        ("socket", 'Attach("probe", "socket", "lo")', 2, "0"),
        ("socket", 'Attach("probe", "socket", "")', 2, "0"),
    ],
)
def test_packets_through_an_interface_are_counted_and_go_on(
    start_agent: Start,
    tmp_path: Path,
    receiver: socket.socket,
    section: str,
    attach: str,
    seen: int,
    verdict: str,
) -> None:
    port = receiver.getsockname()[1]
    agent = start_packets(start_agent, tmp_path, section, f"({attach},)", port, ip=14, verdict=verdict)
    before = hits(agent)
    exchange(receiver, 50, arrive=50)
    assert hits(agent) - before == 50 * seen


@pytest.mark.parametrize(("direction", "processes"), [("egress", "sender"), ("ingress", "receiver")])
def test_packets_of_a_cgroups_processes_are_counted(
    start_agent: Start, tmp_path: Path, cgroup: Path, direction: str, processes: str
) -> None:
    """A child in the cgroup makes both sockets; we, outside it, make others."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    attach = f'(Attach("probe", "cgroup", "{cgroup}"),)'
    section = f"cgroup_skb/{direction}"
    agent = start_packets(start_agent, tmp_path, section, attach, port, ip=0, verdict="1")
    before = hits(agent)
    code = (
        "import socket, sys; r = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); r.settimeout(5)\n"
        f"r.bind(('127.0.0.1', {port})); s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        f"for _ in range(30): s.sendto(b'x' * 40, ('127.0.0.1', {port})); r.recv(100)\n"
    )
    for joins, expected in ((False, 0), (True, 30)):
        join = f"open('{cgroup}/cgroup.procs', 'w').write('0');" if joins else ""
        subprocess.run([sys.executable, "-c", join + code], check=True, timeout=30)
        assert hits(agent) - before == expected


FAULTS = """
import mmap
room = mmap.mmap(-1, 500 * mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
room.madvise(mmap.MADV_NOHUGEPAGE)
for at in range(0, len(room), mmap.PAGESIZE):
    room[at] = 1
import resource
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


def test_each_event_is_one_hit_where_the_period_is_one(start_agent: Start, tmp_path: Path) -> None:
    """Page faults of a command that nobody else has; getrusage says how many it had until it asked."""
    source = tmp_path / "probe.bpf.c"
    source.write_text(
        '#include <bpfleet/bpfleet.h>\n__u64 hits = 0;\nSEC("perf_event")\nint probe(void *ctx)\n{\n'
        "\tchar comm[16] = {};\n\tbpf_get_current_comm(comm, 16);\n"
        "\tif (comm[0] == 'q' && comm[1] == 'f' && comm[2] == 'q')\n"
        "\t\t__sync_fetch_and_add(&hits, 1);\n\treturn 0;\n}\n"
        'char LICENSE[] SEC("license") = "Dual BSD/GPL";\n'
    )
    python = tmp_path / "qfq"
    python.symlink_to(sys.executable)
    attach = '(Attach("probe", "perf_event", "minor-faults", period=1),)'
    module = PLUGIN.format(source=source, attach=attach, maps=HITS)
    agent = start_agent(QUICK, **distribution(tmp_path, "probe", {"collector.probe": "probe"}, module))
    before = hits(agent)
    said = int(subprocess.run([python, "-c", FAULTS], check=True, capture_output=True, text=True).stdout)
    counted = hits(agent) - before
    # Before its exec it had another name; after it had asked it ended, which takes a few more.
    assert said > 500
    assert said * 0.9 <= counted <= said * 1.2


def test_a_frequency_and_a_period_are_one_too_many(tmp_path: Path) -> None:
    source = tmp_path / "probe.bpf.c"
    source.write_text(
        '#include <bpfleet/bpfleet.h>\n__u64 hits = 0;\nSEC("perf_event")\nint probe(void *ctx)\n'
        '{ hits++; return 0; }\nchar LICENSE[] SEC("license") = "Dual BSD/GPL";\n'
    )
    (tmp_path / "probe.toml").write_text(
        'attach_all = true\n[[attach]]\nprogram = "probe"\nkind = "perf_event"\ntarget = "cpu-clock"\n'
        "frequency = 10\nperiod = 1\n"
    )
    done = run("once", str(source), "--after", "10ms")
    assert done.returncode != 0
    assert "has a frequency and a period" in done.stderr


@pytest.mark.parametrize("wrong", ["frequency=-1", "period=-1"])
def test_a_number_of_samples_that_can_not_be_is_told(start_agent: Start, tmp_path: Path, wrong: str) -> None:
    agent = start_probe(
        start_agent, tmp_path, "perf_event", f'(Attach("probe", "perf_event", "cpu-clock", {wrong}),)'
    )
    agent.wait_for(lambda: "does not run" in agent.stderr)
    assert f"'probe' has the {wrong.replace('=', ' ')}" in agent.stderr
    assert "Traceback" not in agent.stderr


def test_samples_come_at_the_frequency_asked_for(
    start_agent: Start,
    tmp_path: Path,
    worker_program: Path,  # noqa: F811
) -> None:
    """A process that is busy for a known CPU time is hit about that often; /proc says how long it was."""
    condition = "if ((__u32)bpf_get_current_pid_tgid() != busy) return 0;"
    source = tmp_path / "probe.bpf.c"
    source.write_text(
        "#include <bpfleet/bpfleet.h>\n__u64 hits = 0;\nconst volatile __u32 busy = 0;\n"
        f'SEC("perf_event")\nint probe(void *ctx)\n{{ {condition}\n'
        "__sync_fetch_and_add(&hits, 1); return 0; }\n"
        'char LICENSE[] SEC("license") = "Dual BSD/GPL";\n'
    )
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        attach = '(Attach("probe", "perf_event", "cpu-clock", frequency=200),)'
        module = PLUGIN.format(source=source, attach=attach, maps=HITS).replace(
            "attach=", f"knobs=lambda settings: {{'busy': {busy.pid}}}, attach="
        )
        agent = start_agent(QUICK, **distribution(tmp_path, "probe", {"collector.probe": "probe"}, module))

        def cpu_seconds() -> float:
            return int(Path(f"/proc/{busy.pid}/schedstat").read_text().split()[0]) / 1e9

        hits(agent)
        before, began = hits(agent), cpu_seconds()
        time.sleep(3)
        after, ended = hits(agent), cpu_seconds()
    finally:
        busy.kill()
        busy.wait()
    # A snapshot is up to two intervals younger than the moment at which /proc was read.
    assert after - before == pytest.approx(200 * (ended - began), rel=0.25)


def test_a_usdt_probe_of_a_running_interpreter_is_hit_once_a_collection(
    start_agent: Start, tmp_path: Path
) -> None:
    interpreter = Path("/usr/bin/python3").resolve()
    attach = f'(Attach("probe", "usdt", "{interpreter}", "python:gc__start"),)'
    condition = "if ((bpf_get_current_pid_tgid() >> 32) != 0 && !from_us()) return 0;"
    source = tmp_path / "probe.bpf.c"
    source.write_text(
        "#include <asm/ptrace.h>\n#include <bpfleet/bpfleet.h>\n#include <bpf/usdt.bpf.h>\n__u64 hits = 0;\n"
        "static __always_inline int from_us(void)\n{ char comm[16]; bpf_get_current_comm(comm, 16);"
        " return comm[0] == 'c' && comm[1] == 'o' && comm[2] == 'l' && comm[3] == 'l'; }\n"
        f'SEC("usdt")\nint BPF_USDT(probe, int generation)\n{{ {condition}\n'
        "if (generation == 2) __sync_fetch_and_add(&hits, 1); return 0; }\n"
        'char LICENSE[] SEC("license") = "Dual BSD/GPL";\n'
    )
    module = PLUGIN.format(source=source, attach=attach, maps=HITS)
    agent = start_agent(QUICK, **distribution(tmp_path, "probe", {"collector.probe": "probe"}, module))
    before = hits(agent)
    collects = tmp_path / "collects"
    collects.symlink_to(interpreter)
    code = "import gc, os; gc.disable(); [gc.collect(2) for _ in range(25)]; os._exit(0)"
    subprocess.run([collects, "-c", code], check=True, timeout=30)
    assert hits(agent) - before == 25


@pytest.mark.parametrize(
    ("section", "attach", "words"),
    [
        ("xdp", 'Attach("probe", "xdp", "nowhere0")', ["no interface 'nowhere0'", "this host has", "lo"]),
        ("perf_event", 'Attach("probe", "perf_event", "cycels")', ["no perf event 'cycels'", "cpu-cycles"]),
        ("cgroup_skb/egress", 'Attach("probe", "cgroup", "/no/such")', ["No such file", "cgroup v2"]),
        ("usdt", 'Attach("probe", "usdt", "/usr/bin/python3", "python:gc")', ["readelf -n", "python:gc"]),
        ("xdp", "", ["nothing says where to", "list it in `attach`"]),
        ("freplace/f", "", ["replaces a function", 'SEC("?freplace/f")']),
    ],
)
def test_what_can_not_be_attached_is_told_with_the_remedy(
    start_agent: Start, tmp_path: Path, section: str, attach: str, words: list[str]
) -> None:
    agent = start_probe(start_agent, tmp_path, section, f"({attach},)" if attach else "()")
    agent.wait_for(lambda: "does not run" in agent.stderr)
    agent.wait_for(lambda: agent.status())
    for word in (*words, "'probe'", "remedy"):
        assert word in agent.stderr
    assert "Traceback" not in agent.stderr


def test_a_file_goes_on_without_what_can_not_be_attached(start_agent: Start, tmp_path: Path) -> None:
    source = tmp_path / "two.bpf.c"
    source.write_text(
        "#include <bpfleet/bpfleet.h>\n__u64 hits = 0;\n"
        'SEC("tp_btf/sched_process_exec")\nint first(void *ctx)\n'
        "{ __sync_fetch_and_add(&hits, 1); return 0; }\n"
        'SEC("tracepoint/no/such")\nint second(void *ctx)\n{ return 0; }\n'
        'SEC("xdp")\nint third(struct xdp_md *ctx)\n{ return XDP_PASS; }\n'
        'char LICENSE[] SEC("license") = "Dual BSD/GPL";\n'
    )
    agent = start_agent(f'[agent]\ninterval = "100ms"\n[collectors."{source}"]\n')
    agent.next_snapshot("two", ".bss")
    (collector,) = agent.status()["collectors"]
    assert collector["state"] == "running"
    said = {one["name"]: (one["attached"], one.get("error", "")) for one in collector["programs"]}
    assert said["first"] == ("tp_btf/sched_process_exec", "")
    for program, why in (("second", "tracepoint/no/such"), ("third", "nothing says where to")):
        attached, error = said[program]
        assert attached == ""
        assert why in error
    assert agent.stderr.count("goes on without a program") == 2

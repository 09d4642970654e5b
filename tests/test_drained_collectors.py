"""Collectors with events, through the whole agent: foreign objects, words, bcc; a worker that dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent_process import BPFLEET, Agent

Start = Callable[..., Agent]

CALLS = """
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
%(include)s
#define DIGITS "0123456789"

const volatile __u32 wanted = 0;

struct event {
	__u64 number;
	__u32 pid;
	char comm[16];
	__u32 args_size;
	char args[200];
};
%(more)s

struct {
	__uint(type, BPF_MAP_TYPE_%(kind)s);
	%(sizes)s
} %(name)s SEC(".maps");

__u64 number;

SEC("tp_btf/sys_enter")
int on_call(__u64 *ctx)
{
	struct event event = {};

	/* getppid: nobody else calls it so often */
	if (ctx[1] != 110 || bpf_get_current_pid_tgid() >> 32 != wanted)
		return 0;
	event.number = __sync_fetch_and_add(&number, 1);
	event.pid = wanted;
	bpf_get_current_comm(event.comm, sizeof(event.comm));
	event.args_size = 1 + (event.number & 63);
	__builtin_memcpy(event.args, DIGITS DIGITS DIGITS DIGITS DIGITS DIGITS DIGITS, 70);
	%(send)s
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
"""

SIZES = {
    "RINGBUF": "__uint(max_entries, %d);",
    "PERF_EVENT_ARRAY": "__uint(key_size, 4);\n\t__uint(value_size, 4);",
    "QUEUE": "__uint(max_entries, %d);\n\t__type(value, struct event);",
    "STACK": "__uint(max_entries, %d);\n\t__type(value, struct event);",
}
TRAILING = "offsetof(struct event, args) + (event.args_size & 127)"
SENDS = {
    "RINGBUF": f"bpf_ringbuf_output(&calls, &event, {TRAILING}, 0);",
    "PERF_EVENT_ARRAY": f"bpf_perf_event_output(ctx, &calls, BPF_F_CURRENT_CPU, &event, {TRAILING});",
    "QUEUE": "bpf_map_push_elem(&calls, &event, 0);",
    "STACK": "bpf_map_push_elem(&calls, &event, 0);",
}
HIDDEN = "SEND(calls, &event, offsetof(struct told, args) + (event.args_size & 127));"
OFFSET = "#define offsetof(t, m) __builtin_offsetof(t, m)"
UNUSED = f"const struct event *unused __attribute__((unused));\n{OFFSET}"


class Caller:
    """A process that makes as many calls as it is told to."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "import os, sys\n"
                "for line in sys.stdin:\n"
                "    for _ in range(int(line)): os.getppid()\n"
                "    print('done', flush=True)\n",
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid

    def call(self, times: int) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{times}\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "done\n"

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()


@pytest.fixture
def caller() -> Iterator[Caller]:
    made = Caller()
    yield made
    made.end()


def write(
    directory: Path,
    caller: Caller,
    kind: str,
    size: int = 1 << 20,
    *,
    words: str = "",
    name: str = "calls",
    more: str = UNUSED,
    send: str = "",
    include: str = "",
) -> Path:
    source = directory / "calling.bpf.c"
    sizes = SIZES[kind]
    source.write_text(
        CALLS
        % {
            "kind": kind,
            "sizes": sizes % size if "%" in sizes else sizes,
            "name": name,
            "more": more,
            "send": send or SENDS[kind],
            "include": include,
        }
    )
    (directory / "calling.toml").write_text(f"[knobs]\nwanted = {caller.pid}\n{words}")
    return source


def start(start_agent: Start, source: Path, interval: str = "200ms", more: str = "") -> Agent:
    return start_agent(f'[agent]\ninterval = "{interval}"\n[collectors."{source}"]\n{more}')


def events(agent: Agent) -> list[dict[str, Any]]:
    return [row for one in agent.snapshots("calling", "calls") for row in one["rows"]]


@pytest.mark.parametrize("kind", list(SIZES))
def test_a_foreign_program_s_events_all_arrive(
    kind: str, start_agent: Start, tmp_path: Path, caller: Caller
) -> None:
    size = 1 << 20 if kind == "RINGBUF" else 5000
    agent = start(start_agent, write(tmp_path, caller, kind, size), more='perf_buffer = "1MiB"\n')
    agent.next_snapshot("calling", "calls")
    for _ in range(4):
        caller.call(1000)
        time.sleep(0.05)
    agent.wait_for(lambda: len(events(agent)) >= 4000)
    got = events(agent)
    assert sorted(row["number"] for row in got) == list(range(4000))
    assert [row["event_number"] for row in got] == list(range(1, 4001))
    for row in got:
        assert row["pid"] == caller.pid
        assert row["args_size"] == 1 + row["number"] % 64
        if kind in ("RINGBUF", "PERF_EVENT_ARRAY"):
            # What follows the event's end is blank; a perf ring's events end at whole 8 bytes.
            assert row["args"][: row["args_size"]] == ("0123456789" * 7)[: row["args_size"]]
            assert len(row["args"]) <= row["args_size"] + (8 if kind == "PERF_EVENT_ARRAY" else 0)
    (status,) = agent.status()["collectors"]
    shown = next(one for one in status["maps"] if one["name"] == "calls")
    assert shown["method"] == "drain"
    assert ("losses_unknown" in shown) == (kind != "PERF_EVENT_ARRAY")


@pytest.mark.parametrize("kind", ["RINGBUF", "PERF_EVENT_ARRAY"])
def test_under_loss_rows_and_losses_are_all_events(
    kind: str, start_agent: Start, tmp_path: Path, caller: Caller
) -> None:
    send = {
        "RINGBUF": "bpfleet_output(calls, &event, sizeof(event));",
        "PERF_EVENT_ARRAY": "bpfleet_perf_output(ctx, calls, &event, sizeof(event));",
    }[kind]
    source = write(tmp_path, caller, kind, 4096, send=send, more=UNUSED + "\n__u64 calls_failed_inserts;")
    text = source.read_text().replace('#include "vmlinux.h"\n#include <bpf/bpf_helpers.h>\n', "")
    source.write_text("#include <bpfleet/bpfleet.h>\n" + text.replace(OFFSET, ""))
    agent = start(start_agent, source, more='perf_buffer = "4KiB"\n')
    agent.next_snapshot("calling", "calls")
    caller.call(200_000)
    agent.next_snapshot("calling", "calls")
    last = agent.next_snapshot("calling", "calls")
    got, lost = events(agent), sum(last["losses"].values())
    numbers = [row["number"] for row in got]
    assert len(set(numbers)) == len(numbers)
    assert len(numbers) + lost == 200_000
    assert lost > 1000, "there was no loss to count"
    assert set(last["losses"]) == {"failed_insert", *({"lost"} if kind == "PERF_EVENT_ARRAY" else set())}


def test_an_interval_of_ten_seconds_needs_no_buffer_of_ten_seconds(
    start_agent: Start, tmp_path: Path, caller: Caller
) -> None:
    source = write(tmp_path, caller, "RINGBUF", 1 << 16)
    agent = start(start_agent, source, interval="4s")
    agent.next_snapshot("calling", "calls")
    for _ in range(100):  # about 80 bytes each: twelve times what the buffer holds
        caller.call(100)
        time.sleep(0.03)
    agent.wait_for(lambda: len(events(agent)) >= 10_000)
    assert [row["number"] for row in events(agent)] == list(range(10_000))
    assert len({one["t1"] for one in agent.snapshots("calling", "calls") if one["rows"]}) <= 2


def test_beyond_the_bound_of_memory_events_are_counted(
    start_agent: Start, tmp_path: Path, caller: Caller
) -> None:
    source = write(tmp_path, caller, "RINGBUF", 1 << 20)
    agent = start(start_agent, source, interval="3s", more='row_buffer = "256KiB"\n')
    agent.next_snapshot("calling", "calls")
    for _ in range(20):
        caller.call(250)
        time.sleep(0.02)

    def no_room() -> int:
        return int(agent.snapshots("calling", "calls")[-1]["losses"].get("no_room", 0))

    agent.wait_for(lambda: len(events(agent)) + no_room() >= 5000)
    assert no_room() > 1000
    assert len(events(agent)) + no_room() == 5000


@pytest.mark.parametrize("kind", list(SIZES))
def test_a_worker_that_is_killed_loses_only_what_it_says(
    kind: str, start_agent: Start, tmp_path: Path, caller: Caller
) -> None:
    size = 1 << 20 if kind == "RINGBUF" else 20_000
    agent = start(start_agent, write(tmp_path, caller, kind, size), "1500ms", 'perf_buffer = "2MiB"\n')
    agent.next_snapshot("calling", "calls")
    caller.call(1000)
    agent.wait_for(lambda: len(events(agent)) == 1000)
    caller.call(1000)
    time.sleep(0.6)  # they are taken early, or wait in the kernel
    (worker,) = agent.children("bpfleet.worker")
    os.kill(worker, signal.SIGKILL)
    caller.call(1000)  # nobody listens; the buffers are the supervisor's
    agent.wait_for(lambda: agent.children("bpfleet.worker") not in ([], [worker]))
    caller.call(1000)
    agent.next_snapshot("calling", "calls")
    last = agent.next_snapshot("calling", "calls")
    lost = last["losses"].get("worker_restart", 0)
    numbers = {row["number"] for row in events(agent)}
    assert len(numbers) == len(events(agent))
    assert numbers >= {*range(1000), *range(2000, 4000)}
    assert len(numbers) + lost == 4000
    assert len({one["generation"] for one in agent.snapshots("calling", "calls")}) == 1


WORDS_TYPE = '[maps.calls]\nevent = "struct event"\nhelp = "Calls"\nfields.number = { meaning = "label" }\n'


def test_words_name_the_type_of_events_and_say_what_they_mean(
    start_agent: Start, tmp_path: Path, caller: Caller
) -> None:
    # A second pointer: without words it would not be clear which one is meant.
    more = "struct other { int x; };\nconst struct other *unused2 __attribute__((unused));\n" + UNUSED
    source = write(tmp_path, caller, "RINGBUF", more=more, words=WORDS_TYPE)
    agent = start(start_agent, source)
    agent.next_snapshot("calling", "calls")
    caller.call(10)
    agent.wait_for(lambda: len(events(agent)) == 10)
    (schema,) = [one for one in agent.records if one["kind"] == "schema" and one["map"] == "calls"]
    meanings = {column["name"]: column["meaning"] for column in schema["columns"]}
    assert meanings["event_number"] == "event"
    assert meanings["number"] == "label"
    assert schema["help"] == "Calls"
    (status,) = agent.status()["collectors"]
    assert next(one for one in status["maps"] if one["name"] == "calls")["event_type"] == "struct event"


def test_events_of_an_unknown_type_come_as_bytes_with_their_size(
    start_agent: Start, tmp_path: Path, caller: Caller
) -> None:
    source = write(
        tmp_path,
        caller,
        "RINGBUF",
        more=f"{OFFSET}\n#define SEND(map, data, size) bpf_ringbuf_output(&map, data, size, 0)",
        words="[maps.calls]\nsize = 16\n",
    )
    text = source.read_text().replace("struct event", "struct told")  # a name that nobody would guess
    source.write_text(text.replace(SENDS["RINGBUF"].replace("struct event", "struct told"), HIDDEN))
    agent = start(start_agent, source)
    agent.next_snapshot("calling", "calls")
    caller.call(70)
    agent.wait_for(lambda: len(events(agent)) == 70)
    assert HIDDEN in source.read_text()
    for number, row in enumerate(events(agent)):
        assert row["event_size"] == 32 + 1 + number % 64
        assert bytes.fromhex(row["data"])[:12] == number.to_bytes(8, "little") + caller.pid.to_bytes(
            4, "little"
        )
        assert len(row["data"]) == 32


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ('[maps.calls]\nevent = "struct evnt"\n', "the object has no type 'struct evnt'"),
        ('[maps.calls]\nfields.number = { meaning = "counter" }\n', "declared as a counter"),
        ('[maps.calls]\nfields.nmber = { unit = "x" }\n', "did you mean 'number'"),
    ],
)
def test_words_that_can_not_be_are_an_error(words: str, says: str, tmp_path: Path, caller: Caller) -> None:
    source = write(tmp_path, caller, "RINGBUF", words=words)
    done = subprocess.run(
        [BPFLEET, "once", str(source)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_queue_that_the_program_itself_takes_from_is_left_alone(
    start_agent: Start, tmp_path: Path, caller: Caller
) -> None:
    pops = SENDS["QUEUE"] + "\n\tif (event.number % 2)\n\t\tbpf_map_pop_elem(&calls, &event);"
    source = write(tmp_path, caller, "QUEUE", 1000, send=pops)
    agent = start(start_agent, source)
    agent.wait_for(lambda: agent.snapshots("calling", ".bss"))
    (status,) = agent.status()["collectors"]
    assert [one["name"] for one in status["maps"]] == [".bss"]


def test_what_waits_when_the_agent_ends_is_in_a_last_snapshot(
    start_agent: Start, tmp_path: Path, caller: Caller
) -> None:
    source = write(tmp_path, caller, "RINGBUF")
    agent = start(start_agent, source, interval="60s")
    agent.wait_for(lambda: agent.snapshots("calling", "calls"))
    caller.call(500)
    time.sleep(0.6)  # some are taken early
    caller.call(500)
    agent.process.terminate()
    agent.process.wait(30)
    agent.wait_for(lambda: len(events(agent)) == 1000, 5)
    assert agent.snapshots("calling", "calls")[-1]["losses"] == {}


def test_once_shows_events_in_their_order(tmp_path: Path, caller: Caller) -> None:
    source = write(tmp_path, caller, "RINGBUF")
    once = subprocess.Popen(
        [BPFLEET, "once", str(source), "--after", "2s", "--format", "table"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    end = time.monotonic() + 20
    shown = ""
    # Calls before it is attached are nobody's: so they go on until it ends.
    while once.poll() is None and time.monotonic() < end:
        caller.call(1)
        time.sleep(0.05)
    shown, errors = once.communicate(timeout=20)
    assert once.returncode == 0, errors
    title, header, *lines = shown.splitlines()
    assert "calling.calls" in title
    assert "events" in title
    assert "what found no room is not counted" in title
    assert header.split()[:3] == ["#", "number", "pid"]
    numbers = [int(line.split()[0]) for line in lines if line.split()[0].isdigit()]
    assert numbers[:5] == sorted(numbers[:5])


BCC = """
struct seen_t { u64 number; u32 pid; char comm[16]; int code; };
%(table)s
BPF_ARRAY(calls_failed_inserts, u64, 1);
BPF_ARRAY(numbers, u64, 1);
TRACEPOINT_PROBE(raw_syscalls, sys_enter)
{
    struct seen_t seen = {};
    int zero = 0;
    u64 *number;

    if (args->id != 110 || bpf_get_current_pid_tgid() >> 32 != WANTED)
        return 0;
    number = numbers.lookup(&zero);
    if (!number)
        return 0;
    seen.number = (*number)++;
    seen.pid = WANTED;
    seen.code = -7;
    bpf_get_current_comm(&seen.comm, sizeof(seen.comm));
    %(send)s
    return 0;
}
"""
BCC_KINDS = {
    "perf": ("BPF_PERF_OUTPUT(calls);", "calls.perf_submit(args, &seen, sizeof(seen));"),
    "ringbuf": ("BPF_RINGBUF_OUTPUT(calls, 64);", "calls.ringbuf_output(&seen, sizeof(seen), 0);"),
    "queue": ("BPF_QUEUE(calls, struct seen_t, 4000);", "calls.push(&seen, 0);"),
    "stack": ("BPF_STACK(calls, struct seen_t, 4000);", "calls.push(&seen, 0);"),
}


@pytest.mark.parametrize("kind", list(BCC_KINDS))
def test_events_of_bcc_programs_have_the_type_that_they_submit(
    kind: str, tmp_path: Path, caller: Caller
) -> None:
    table, send = BCC_KINDS[kind]
    source = tmp_path / "calling.c"
    source.write_text(BCC % {"table": table, "send": send})
    script = tmp_path / "drain.py"
    script.write_text(
        "import json, sys\n"
        "from bpfleet.loader.__main__ import load, _Fds\n"
        "from bpfleet.protocol import Load\n"
        "from bpfleet.draining.opening import open_drainer\n"
        "fds = _Fds()\n"
        "knobs = {'WANTED': int(sys.argv[2])}\n"
        "request = Load(collector='x', kind='bcc', source=sys.argv[1], knobs=knobs, perf_buffer=1 << 20)\n"
        "made = load(request, fds)\n"
        "(one,) = [one for one in made.maps if one.name == 'calls']\n"
        "drainer = open_drainer(one, fds.all, most_bytes=1 << 24, counted=False)\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        "read = drainer.read()\n"
        "names = [leaf.name for leaf in (*one.key.columns(), *one.value.columns())]\n"
        "rows = zip(*(column.astype(str).tolist() if column.dtype.kind == 'S' else column.tolist()"
        " for column in read.columns))\n"
        "print(json.dumps([dict(zip(names, row)) for row in rows]))\n"
    )
    with subprocess.Popen(
        ["unshare", "--mount", sys.executable, str(script), str(source), str(caller.pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        caller.call(2000)
        process.stdin.write("\n")
        process.stdin.flush()
        got = json.loads(process.stdout.readline())
    assert sorted(row["number"] for row in got) == list(range(2000))
    for row in got:
        assert (row["pid"], row["comm"], row["code"]) == (caller.pid, row["comm"], -7)
        assert row["comm"].startswith("python")

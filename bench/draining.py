"""draining: one ring buffer full of events, taken out in columns, beside a callback for each event."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from bench.peer import Peer, PeerError, compiled, peer
from bench.rounds import Contender, interleave
from bench.tables import Table, si
from bpfleet import kernel
from bpfleet.bpf_object import read as read_object
from bpfleet.draining.drainer import Drainer
from bpfleet.draining.opening import open_drainer
from bpfleet.events import our_columns
from bpfleet.loader.compile import object_for
from bpfleet.loader.drained_maps import prepare_drained
from bpfleet.loader.knobs import write_knobs
from bpfleet.loader.libbpf import Object
from bpfleet.protocol import LoadedMap

__all__ = ["run"]

_SOURCE = """
#include <bpfleet/bpfleet.h>

const volatile __u32 count = 0;
const volatile __u32 longer = 0;   /* events have up to so many bytes more, a power of two; 0: all alike */

struct event {
	__u64 number;
	__u64 twice;
	__u32 cpu;
	char word[12];
};

const struct event *unused __attribute__((unused));

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 32 << 20);
} events SEC(".maps");

struct whole {
	struct event event;
	char more[64];
};

static long one(__u32 i, void *ctx)
{
	struct whole whole = {};
	__u32 size = sizeof(struct event);

	whole.event.number = i;
	whole.event.twice = i * 2;
	__builtin_memcpy(whole.event.word, "hello world", 12);
	if (longer)
		size += i * 2654435761U >> 16 & (longer - 1) & 63;
	bpf_ringbuf_output(&events, &whole, size, 0);
	return 0;
}

SEC("raw_tp")
int produce(void *ctx)
{
	bpf_loop(count, one, NULL, 0);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
"""
_OURS, _C, _CTYPES, _BCC = (
    "bpfleet, into columns",
    "C, ring_buffer__poll, a callback",
    "Python, libbpf by ctypes, a callback",
    "bcc, open_ring_buffer, a callback",
)


def run(quick: bool) -> Iterator[Table]:
    """One table for events of one size, one for events of many."""
    count = 20_000 if quick else 200_000
    yield _compare("32-byte events", count, 0, rounds=3 if quick else 21)
    yield _compare("events of 32 to 95 bytes, mixed", count, 64, rounds=3 if quick else 21)


def _compare(name: str, count: int, longer: int, *, rounds: int) -> Table:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        source = folder / "events.bpf.c"
        source.write_text(_SOURCE)
        path = object_for(source)
        made = Object(str(path))
        write_knobs(made, path, {"count": count, "longer": longer})
        made.load()
        stack.callback(made.close)
        fd = made.map("events").fd
        drainer = _drainer(path, fd, stack)
        program = next(iter(made.programs())).fd
        peers = {
            _C: stack.enter_context(peer([str(compiled("ring")), str(fd), str(count)], fd)),
            _CTYPES: stack.enter_context(
                peer([sys.executable, "-m", "bench.python_ring", str(fd), "libbpf"], fd)
            ),
            _BCC: stack.enter_context(peer([sys.executable, "-m", "bench.python_ring", str(fd), "bcc"], fd)),
        }
        wanted = (count, count * (count - 1) // 2)
        notes = [_proof(program, drainer, peers, wanted)]
        contenders = [Contender(_OURS, _ours(program, drainer, count))]
        contenders += [
            Contender(called, _theirs(program, one, called, count), budget_ns=3_000_000_000, least=3)
            for called, one in peers.items()
        ]
        interleave(contenders, rounds)
    return _table(name, count, contenders, notes)


def _drainer(path: Path, fd: int, stack: ExitStack) -> Drainer:
    """As a worker has it."""
    info = kernel.map_info(fd)
    event = read_object(path).struct_layout("event")
    assert event is not None
    fds = [fd]

    def add(one: int) -> int:
        fds.append(one)
        stack.callback(os.close, one)
        return len(fds) - 1

    described = LoadedMap(
        name="events",
        help="",
        type=info.type,
        key_size=info.key_size,
        value_size=info.value_size,
        max_entries=info.max_entries,
        flags=info.flags,
        key=our_columns("ringbuf", raw=False),
        value=event,
        fd=0,
    )
    prepare_drained(described, fd, info, 0, add)
    return open_drainer(described, fds, most_bytes=64 << 20, counted=True)


def _proof(program: int, drainer: Drainer, peers: dict[str, Peer], wanted: tuple[int, int]) -> str:
    kernel.run_program(program)
    read = drainer.read()
    found = {_OURS: (read.rows, int(read.columns[1].sum()))}
    for name, one in peers.items():
        kernel.run_program(program)
        found[name] = one.digest("poll")
    wrong = {name: got for name, got in found.items() if got != wanted}
    if wrong:
        raise PeerError(f"not {wanted} (events, sum of their numbers): {wrong}")
    return f"{wanted[0]:,} events whose numbers add up to {wanted[1]} from all"


def _ours(program: int, drainer: Drainer, count: int) -> Callable[[int], int]:
    def run(repeats: int) -> int:
        took = 0
        for _ in range(repeats):
            kernel.run_program(program)
            began = time.perf_counter_ns()
            read = drainer.read()
            took += time.perf_counter_ns() - began
            drainer.told()
            if read.rows != count:
                raise PeerError(f"{read.rows} events of {count}")
        return took

    return run


def _theirs(program: int, one: Peer, name: str, count: int) -> Callable[[int], int]:
    def run(repeats: int) -> int:
        took = 0
        for _ in range(repeats):
            kernel.run_program(program)
            ns, events = one.time("poll", 1)
            if events != count:
                raise PeerError(f"{name}: {events} events of {count}")
            took += ns
        return took

    return run


def _table(name: str, count: int, contenders: list[Contender], notes: list[str]) -> Table:
    table = Table(
        f"draining: a ring buffer with {count:,} {name}",
        ("", "events/s", "slowest", "fastest", "C = 1", "rounds of drains"),
        notes=notes,
    )
    reference = next(one for one in contenders if one.name == _C).median
    for one in contenders:
        rates = [count / ns * 1e9 for ns in (one.median, one.worst, one.best)]
        ratio = reference / one.median
        table.rows.append([one.name, *map(si, rates), f"{ratio:.3g}", f"{len(one.times)} of {one.repeats}"])
        table.data.append(
            {
                "events": name,
                "name": one.name,
                "count": count,
                "median_ns": one.median,
                "min_ns": one.best,
                "max_ns": one.worst,
                "events_per_s": rates[0],
                "ratio_to_c": ratio,
                "rounds": len(one.times),
                "repeats": one.repeats,
            }
        )
    return table

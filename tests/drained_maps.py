"""Maps that a program of ours fills with a known number of events, and drainers over them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bpfleet import kernel
from bpfleet.bpf_object import read as read_object
from bpfleet.draining.drainer import Drainer
from bpfleet.draining.opening import open_drainer
from bpfleet.events import our_columns
from bpfleet.layout import Layout
from bpfleet.loader.compile import object_for
from bpfleet.loader.drained_maps import prepare_drained
from bpfleet.loader.knobs import write_knobs
from bpfleet.loader.libbpf import Object
from bpfleet.protocol import LoadedMap

SOURCE = """
#include <bpfleet/bpfleet.h>

const volatile __u32 rounds = 1;   /* events that one run makes */
const volatile __u32 odd = 0;      /* every so manieth is longer by its number's last bits */
const volatile __u32 gone = 0;     /* every so manieth is discarded */
const volatile __u32 brief = 0;    /* every so manieth ends behind `twice` */

struct event {
	__u64 number;
	__u64 twice;
	__u32 cpu;
	char word[12];
};

const struct event *unused __attribute__((unused));

struct {
	__uint(type, BPF_MAP_TYPE_%(kind)s);
	%(size)s
} events SEC(".maps");

BPFLEET_FAILED_INSERTS(events);

__u64 made;
__u64 thrown_away;

struct longer {
	struct event event;
	char more[64];
};

static __always_inline void fill(struct event *event)
{
	event->number = __sync_fetch_and_add(&made, 1);
	event->twice = event->number * 2;
	event->cpu = bpf_get_smp_processor_id();
	__builtin_memcpy(event->word, "hello world", 12);
}

static long one(__u32 i, void *ctx)
{
	%(one)s
	return 0;
}

SEC("raw_tp")
int produce(void *ctx)
{
	%(produce)s
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
"""

RINGBUF = """
	struct longer whole = {};
	struct event *event;

	if (odd && i % odd == 0) {
		fill(&whole.event);
		bpfleet_output(events, &whole, sizeof(struct event) + (i & 63));
		return 0;
	}
	if (brief && i % brief == 0) {
		fill(&whole.event);
		bpfleet_output(events, &whole, offsetof(struct event, cpu));
		return 0;
	}
	event = bpfleet_reserve(events, struct event);
	if (!event) {
		__sync_fetch_and_add(&made, 1);
		return 0;
	}
	if (gone && i % gone == 0) {
		__sync_fetch_and_add(&thrown_away, 1);
		bpf_ringbuf_discard(event, 0);
		return 0;
	}
	fill(event);
	bpf_ringbuf_submit(event, 0);
"""
PUSH = """
	struct event event = {};

	fill(&event);
	bpfleet_push(events, &event);
"""
PERF = """
	struct longer whole = {};
	__u64 size = sizeof(struct event);

	fill(&whole.event);
	if (odd && i % odd == 0)
		size += i & 63;
	if (brief && i % brief == 0)
		size = offsetof(struct event, cpu);
	bpfleet_perf_output(ctx, events, &whole, size);
"""


@dataclass
class Produced:
    """A loaded program, and how its map is drained."""

    object: Object
    fd: int
    described: LoadedMap
    event: Layout
    fds: list[int] = field(default_factory=list)
    drainer: Drainer | None = None
    repeats: int = 1

    def produce(self) -> None:
        """Run the program for `rounds` events."""
        program = next(iter(self.object.programs())).fd
        for _ in range(self.repeats):
            kernel.run_program(program)

    def count(self, name: str) -> int:
        """A global variable of the program."""
        leaf = next(leaf for leaf in self._bss.leaves if leaf.name == name)
        value = bytearray(self._bss.size)
        key = bytes(4)
        import ctypes

        buffer = (ctypes.c_char * len(value)).from_buffer(value)
        zero = ctypes.create_string_buffer(key, 4)
        kernel.lookup(self.object.map(".bss").fd, ctypes.addressof(zero), ctypes.addressof(buffer))
        return int.from_bytes(value[leaf.offset : leaf.offset + 8], "little")

    _bss: Layout = field(default_factory=lambda: Layout(0, ()))

    def open(self, most_bytes: int = 64 << 20, *, counted: bool = True) -> Drainer:
        """A drainer, as a worker that has just begun opens it."""
        self.drainer = open_drainer(self.described, self.fds, most_bytes=most_bytes, counted=counted)
        return self.drainer


@contextmanager
def producing(
    directory: Path, kind: str, size: int, *, perf_buffer: int = 65536, **knobs: int
) -> Iterator[Produced]:
    """A program with the map `events` of that kind; `size` is its max_entries."""
    source = directory / f"{kind}_{size}.bpf.c"
    sizes = "" if kind == "perf_event_array" else f"__uint(max_entries, {size});"
    if kind in ("queue", "stack"):
        sizes += "\n\t__type(value, struct event);"
    if kind == "perf_event_array":
        sizes += "\n\t__uint(key_size, 4);\n\t__uint(value_size, 4);"
    one = {"ringbuf": RINGBUF, "perf_event_array": PERF}.get(kind, PUSH)
    # A callback can't have the context, and the verifier follows each turn of a plain loop.
    loop = "for (__u32 i = 0; i < rounds && i < 100; i++) one(made, ctx);"
    produce = loop if kind == "perf_event_array" else "bpf_loop(rounds, one, NULL, 0);"
    repeats = max(1, knobs["rounds"] // 100) if kind == "perf_event_array" else 1
    knobs["rounds"] //= repeats
    source.write_text(SOURCE % {"kind": kind.upper(), "size": sizes, "one": one, "produce": produce})
    path = object_for(source)
    opened = Object(str(path))
    write_knobs(opened, path, dict(knobs))
    opened.load()
    fd = opened.map("events").fd
    info = kernel.map_info(fd)
    content = read_object(path)
    event = content.struct_layout("event")
    assert event is not None
    fds = [fd]

    def add(one: int) -> int:
        fds.append(one)
        return len(fds) - 1

    described = LoadedMap(
        name="events",
        help="",
        type=info.type,
        key_size=info.key_size,
        value_size=info.value_size,
        max_entries=info.max_entries,
        flags=info.flags,
        key=our_columns(kind, raw=False),
        value=event,
        fd=0,
    )
    prepare_drained(described, fd, info, perf_buffer, add)
    made = Produced(opened, fd, described, event, fds, repeats=repeats)
    made._bss = content.layouts_of(".bss")[1] or Layout(0, ())
    try:
        yield made
    finally:
        for one in fds[1:]:
            os.close(one)
        opened.close()


def rows(drainer: Drainer) -> list[dict[str, Any]]:
    """One read as rows, marked as told."""
    read = drainer.read()
    names = ["event_number", "cpu"] if len(read.columns) == 6 else ["event_number"]
    names += ["number", "twice", "on_cpu", "word"]
    made = [
        dict(zip(names, row, strict=True)) for row in zip(*(c.tolist() for c in read.columns), strict=True)
    ]
    assert len(made) == read.rows
    drainer.told()
    return made

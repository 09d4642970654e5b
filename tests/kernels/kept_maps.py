"""One program that writes known content into a map of every kind that is read, and the content."""

from __future__ import annotations

__all__ = ["DRAINED", "DRAINED_SOURCE", "KINDS", "MAPS_SOURCE", "STORAGE_SOURCE", "expected"]

ENTRIES = 40

KINDS = {
    "hash": "HASH",
    "lru_hash": "LRU_HASH",
    "percpu_hash": "PERCPU_HASH",
    "lru_percpu_hash": "LRU_PERCPU_HASH",
    "array": "ARRAY",
    "percpu_array": "PERCPU_ARRAY",
}
"""The kinds of one shape: `__u32` keys from 0 on, `__u64` values."""

_MAP = """
struct {{
	__uint(type, BPF_MAP_TYPE_{type});
	__uint(max_entries, {entries});
	__type(key, __u32);
	__type(value, __u64);
}} in_{name} SEC(".maps");
"""

_ADD = """
static __always_inline void add(void *map, __u32 key)
{
	__u64 none = 0, *value = bpf_map_lookup_elem(map, &key);

	if (!value) {
		bpf_map_update_elem(map, &key, &none, BPF_NOEXIST);
		value = bpf_map_lookup_elem(map, &key);
	}
	if (value)
		__sync_fetch_and_add(value, key + 1);
}
"""

_TRIE = """
struct prefix {
	__u32 length;
	__u8 address[4];
};

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 64);
	__type(key, struct prefix);
	__type(value, __u64);
} in_lpm_trie SEC(".maps");

static __always_inline void add_prefixes(void)
{
	for (__u32 i = 0; i < 8; i++) {
		struct prefix key = { 8 + i, { 10, 0x80 } };
		__u64 value = i + 1;

		bpf_map_update_elem(&in_lpm_trie, &key, &value, BPF_ANY);
	}
}
"""

MAPS_SOURCE = (
    "#include <bpfleet/bpfleet.h>\n\nconst volatile __u32 pid = 0;\n__u64 mapped = 0;\n"
    + "".join(_MAP.format(name=name, type=kind, entries=ENTRIES) for name, kind in KINDS.items())
    + _TRIE
    + _ADD
    + '\nSEC("raw_tp/sys_enter")\nint fill(unsigned long long *ctx)\n{\n'
    + "\tif (ctx[1] != 121 || bpf_get_current_pid_tgid() >> 32 != pid)\n\t\treturn 0;\n"
    + f"\tfor (__u32 key = 0; key < {ENTRIES}; key++) {{\n"
    + "".join(f"\t\tadd(&in_{name}, key);\n" for name in KINDS)
    + "\t}\n\tadd_prefixes();\n\t__sync_fetch_and_add(&mapped, 1);\n\treturn 0;\n}\n"
    + '\nchar LICENSE[] SEC("license") = "Dual BSD/GPL";\n'
)

STORAGE_SOURCE = """#include <bpfleet/bpfleet.h>

struct {
	__uint(type, BPF_MAP_TYPE_CGROUP_STORAGE);
	__type(key, struct bpf_cgroup_storage_key);
	__type(value, __u64);
} in_cgroup_storage SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_CGROUP_STORAGE);
	__type(key, struct bpf_cgroup_storage_key);
	__type(value, __u64);
} in_percpu_cgroup_storage SEC(".maps");

SEC("cgroup_skb/egress")
int probe(struct __sk_buff *ctx)
{
	__u64 *value = bpf_get_local_storage(&in_cgroup_storage, 0);

	__sync_fetch_and_add(value, 1);
	value = bpf_get_local_storage(&in_percpu_cgroup_storage, 0);
	__sync_fetch_and_add(value, 1);
	return 1;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
"""


DRAINED = ("ringbuf", "perf_event_array", "queue", "stack")
"""Kinds that are drained: each gets every event of `DRAINED_SOURCE`, numbered."""

DRAINED_SOURCE = """#include <bpfleet/bpfleet.h>

const volatile __u32 pid = 0;
__u64 made = 0;

struct event {
	__u64 number;
	__u64 twice;
};

const struct event *unused __attribute__((unused));

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 65536);
} in_ringbuf SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, 4);
	__uint(value_size, 4);
} in_perf_event_array SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 1000);
	__type(value, struct event);
} in_queue SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_STACK);
	__uint(max_entries, 1000);
	__type(value, struct event);
} in_stack SEC(".maps");

SEC("raw_tp/sys_enter")
int tell(unsigned long long *ctx)
{
	struct event event = {};

	if (ctx[1] != 121 || bpf_get_current_pid_tgid() >> 32 != pid)
		return 0;
	event.number = __sync_fetch_and_add(&made, 1);
	event.twice = event.number * 2;
	bpf_ringbuf_output(&in_ringbuf, &event, sizeof(event), 0);
	bpf_perf_event_output(ctx, &in_perf_event_array, BPF_F_CURRENT_CPU, &event, sizeof(event));
	bpf_map_push_elem(&in_queue, &event, 0);
	bpf_map_push_elem(&in_stack, &event, 0);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
"""


def expected(events: int) -> set[tuple[int, int]]:
    """(key, value) of every row of a map of `KINDS`, after so many events."""
    return {(key, events * (key + 1)) for key in range(ENTRIES)}

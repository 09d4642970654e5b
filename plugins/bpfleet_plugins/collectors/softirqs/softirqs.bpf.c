/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-3-Clause)
 *
 * softirqs: runs of each softirq vector, and their time.
 */
#include <bpfleet/bpfleet.h>

#define VECTORS 10 /* NR_SOFTIRQS, since 2.6.31 */
#define SLOTS 32

struct runs {
	__u64 count;
	__u64 total_ns;
	__u64 slots[SLOTS];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, VECTORS);
	__type(key, __u32);
	__type(value, struct runs);
} vectors SEC(".maps");

/* When the one that runs on this CPU began; 0 where none was seen to begin. One CPU runs one at a time. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} began SEC(".maps");

SEC("tp_btf/softirq_entry")
int BPF_PROG(on_entry, unsigned int vector)
{
	__u32 first = 0;
	__u64 *at = bpf_map_lookup_elem(&began, &first);

	if (at)
		*at = bpf_ktime_get_ns();
	return 0;
}

SEC("tp_btf/softirq_exit")
int BPF_PROG(on_exit, unsigned int vector)
{
	__u32 first = 0, slot;
	__u64 *at = bpf_map_lookup_elem(&began, &first), ns;
	struct runs *runs = bpf_map_lookup_elem(&vectors, &vector);

	if (!at || !*at || !runs)
		return 0;
	ns = bpf_ktime_get_ns() - *at;
	*at = 0;
	runs->count++;
	runs->total_ns += ns;
	slot = bpfleet_log2_slot(ns, SLOTS);
	if (slot < SLOTS)
		runs->slots[slot]++;
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-3-Clause)
 *
 * hardirqs: runs of each interrupt handler, and their time.
 */
#include <bpfleet/bpfleet.h>

#define MAX_HANDLERS 4096
#define NAME_SIZE 28
#define SLOTS 32

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct irqaction {
	const char *name;
};

#pragma clang attribute pop

struct handler {
	__u32 irq;
	char name[NAME_SIZE];
};

struct runs {
	__u64 count;
	__u64 not_mine;
	__u64 total_ns;
	__u64 slots[SLOTS];
};

/* An irq mostly stays on one CPU, so its counters do too; a map per CPU would take that much memory for each. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_HANDLERS);
	__type(key, struct handler);
	__type(value, struct runs);
} handlers SEC(".maps");

BPFLEET_FAILED_INSERTS(handlers);

/* When the handler that runs on this CPU began. Handlers run one by one, with interrupts off. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} began SEC(".maps");

static const struct runs none;

SEC("tp_btf/irq_handler_entry")
int BPF_PROG(on_entry, int irq, struct irqaction *action)
{
	__u32 first = 0;
	__u64 *at = bpf_map_lookup_elem(&began, &first);

	if (at)
		*at = bpf_ktime_get_ns();
	return 0;
}

SEC("tp_btf/irq_handler_exit")
int BPF_PROG(on_exit, int irq, struct irqaction *action, int handled)
{
	__u32 first = 0, slot;
	__u64 *at = bpf_map_lookup_elem(&began, &first), ns;
	struct handler key = {.irq = irq};
	struct runs *runs;

	if (!at || !*at)
		return 0;
	ns = bpf_ktime_get_ns() - *at;
	*at = 0;
	bpf_probe_read_kernel_str(key.name, sizeof(key.name), action->name);
	runs = bpfleet_get_or_make(handlers, &key, &none);
	if (!runs)
		return 0;
	__sync_fetch_and_add(&runs->count, 1);
	__sync_fetch_and_add(&runs->total_ns, ns);
	if (!handled) /* IRQ_NONE */
		__sync_fetch_and_add(&runs->not_mine, 1);
	slot = bpfleet_log2_slot(ns, SLOTS);
	if (slot < SLOTS)
		__sync_fetch_and_add(&runs->slots[slot], 1);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";

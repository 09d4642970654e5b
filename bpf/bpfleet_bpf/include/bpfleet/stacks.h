/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-3-Clause)
 *
 * For collectors that keep many stacks: two maps for them, `stacks` and `spilled`, and what puts a stack into one of them.
 */
#ifndef BPFLEET_STACKS_H
#define BPFLEET_STACKS_H

#include <bpfleet/bpfleet.h>

#define BPFLEET_MAX_STACKS 16385 /* one more than 2^14: then there are 2^15 places */
#define BPFLEET_MAX_SPILLED 2049
#define BPFLEET_STACK_DEPTH 127
#define BPFLEET_STACK_TAKEN 17 /* EEXIST */

/*
 * A stack has one place, by its hash, and one that finds it taken is not kept, however often it comes. So those go into a
 * second map, where they meet only each other.
 */
struct {
	__uint(type, BPF_MAP_TYPE_STACK_TRACE);
	__uint(max_entries, BPFLEET_MAX_STACKS);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, BPFLEET_STACK_DEPTH * sizeof(__u64));
} stacks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_STACK_TRACE);
	__uint(max_entries, BPFLEET_MAX_SPILLED);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, BPFLEET_STACK_DEPTH * sizeof(__u64));
} spilled SEC(".maps");

BPFLEET_FAILED_INSERTS(stacks);
BPFLEET_FAILED_INSERTS(spilled);

/* Ids of one stack: in one of the two maps */
struct bpfleet_kept_stack {
	__s32 stack;
	__s32 spilled;
};

static __always_inline struct bpfleet_kept_stack bpfleet_keep_stack(void *ctx, __u64 flags)
{
	struct bpfleet_kept_stack kept = {.spilled = -BPFLEET_NO_STACK};
	long id = bpf_get_stackid(ctx, &stacks, flags);

	kept.stack = id;
	if (id == -BPFLEET_STACK_TAKEN) {
		kept.stack = -BPFLEET_NO_STACK;
		kept.spilled = bpfleet_stack_id(ctx, spilled, flags);
	} else if (id < 0 && id != -BPFLEET_NO_STACK) {
		__sync_fetch_and_add(&stacks_failed_inserts, 1);
	}
	return kept;
}

#endif

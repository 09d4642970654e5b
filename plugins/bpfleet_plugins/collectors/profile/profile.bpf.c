/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-3-Clause)
 *
 * profile: what runs on the CPUs, sampled 99 times a second on each: stacks by process; and samples by cgroup.
 */
#include <bpfleet/bpfleet.h>

#define MAX_ROWS 10240
#define MAX_STACKS 16385 /* one more than 2^14: then there are 2^15 places */
#define MAX_SPILLED 2049
#define MAX_CGROUPS 4096
#define STACK_DEPTH 127
#define EEXIST 17

const volatile __u32 only_pid = 0; /* 0: all */

struct where {
	__u32 tgid;
	__s32 kernel_stack;
	__s32 kernel_spilled;
	__s32 user_stack;
	__s32 user_spilled;
	char comm[TASK_COMM_LEN];
};

/* LRU: rows of processes that have ended make room */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_ROWS);
	__type(key, struct where);
	__type(value, __u64);
} samples SEC(".maps");

/*
 * A stack has one place, by its hash, and one that finds it taken is not kept, however often it comes. So those go into a
 * second map, where they meet only each other.
 */
struct {
	__uint(type, BPF_MAP_TYPE_STACK_TRACE);
	__uint(max_entries, MAX_STACKS);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, STACK_DEPTH * sizeof(__u64));
} stacks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_STACK_TRACE);
	__uint(max_entries, MAX_SPILLED);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, STACK_DEPTH * sizeof(__u64));
} spilled SEC(".maps");

/* LRU: cgroups come and go */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_CGROUPS);
	__type(key, __u64);
	__type(value, __u64);
} cgroups SEC(".maps");

BPFLEET_FAILED_INSERTS(samples);
BPFLEET_FAILED_INSERTS(stacks);
BPFLEET_FAILED_INSERTS(spilled);
BPFLEET_FAILED_INSERTS(cgroups);

static const __u64 zero;

/* Ids of one stack: in one of the two maps */
struct kept {
	__s32 stack;
	__s32 spilled;
};

static __always_inline struct kept keep_stack(void *ctx, __u64 flags)
{
	struct kept kept = {.spilled = -BPFLEET_NO_STACK};
	long id = bpf_get_stackid(ctx, &stacks, flags);

	kept.stack = id;
	if (id == -EEXIST) {
		kept.stack = -BPFLEET_NO_STACK;
		kept.spilled = bpfleet_stack_id(ctx, spilled, flags);
	} else if (id < 0 && id != -BPFLEET_NO_STACK) {
		__sync_fetch_and_add(&stacks_failed_inserts, 1);
	}
	return kept;
}

SEC("perf_event")
int on_sample(void *ctx)
{
	struct where key = {.tgid = bpf_get_current_pid_tgid() >> 32};
	__u64 cgroup, *count;
	struct kept kept;

	if (!key.tgid || (only_pid && key.tgid != only_pid)) /* 0: the idle task */
		return 0;
	bpf_get_current_comm(key.comm, sizeof(key.comm));
	kept = keep_stack(ctx, 0);
	key.kernel_stack = kept.stack;
	key.kernel_spilled = kept.spilled;
	kept = keep_stack(ctx, BPF_F_USER_STACK);
	key.user_stack = kept.stack;
	key.user_spilled = kept.spilled;
	count = bpfleet_get_or_make(samples, &key, &zero);
	if (count)
		__sync_fetch_and_add(count, 1);

	cgroup = bpf_get_current_cgroup_id();
	count = bpfleet_get_or_make(cgroups, &cgroup, &zero);
	if (count)
		__sync_fetch_and_add(count, 1);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";

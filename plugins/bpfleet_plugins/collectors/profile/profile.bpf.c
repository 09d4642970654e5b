/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-3-Clause)
 *
 * profile: what runs on the CPUs, sampled 99 times a second on each: stacks by process; and samples by cgroup.
 */
#include <bpfleet/stacks.h>

#define MAX_ROWS 10240
#define MAX_CGROUPS 4096

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

/* LRU: cgroups come and go */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_CGROUPS);
	__type(key, __u64);
	__type(value, __u64);
} cgroups SEC(".maps");

BPFLEET_FAILED_INSERTS(samples);
BPFLEET_FAILED_INSERTS(cgroups);
BPFLEET_NEW_KEYS(samples);
BPFLEET_NEW_KEYS(cgroups);

static const __u64 zero;

SEC("perf_event")
int on_sample(void *ctx)
{
	struct where key = {.tgid = bpf_get_current_pid_tgid() >> 32};
	__u64 cgroup, *count;
	struct bpfleet_kept_stack kept;

	if (!key.tgid || (only_pid && key.tgid != only_pid)) /* 0: the idle task */
		return 0;
	bpf_get_current_comm(key.comm, sizeof(key.comm));
	kept = bpfleet_keep_stack(ctx, 0);
	key.kernel_stack = kept.stack;
	key.kernel_spilled = kept.spilled;
	kept = bpfleet_keep_stack(ctx, BPF_F_USER_STACK);
	key.user_stack = kept.stack;
	key.user_spilled = kept.spilled;
	count = bpfleet_get_or_make_lru(samples, &key, &zero);
	if (count)
		__sync_fetch_and_add(count, 1);

	cgroup = bpf_get_current_cgroup_id();
	count = bpfleet_get_or_make_lru(cgroups, &cgroup, &zero);
	if (count)
		__sync_fetch_and_add(count, 1);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";

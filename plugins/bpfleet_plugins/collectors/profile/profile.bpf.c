/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-3-Clause)
 *
 * profile: what runs on the CPUs, sampled so many times a second on each: stacks by process; and samples by cgroup.
 */
#include <bpfleet/stacks.h>

#define MAX_ROWS 10240
#define MAX_CGROUPS 4096

const volatile __u32 only_pid = 0; /* 0: all */
const volatile __u64 sample_ns = 1000000000 / 99; /* CPU time that a sample stands for */

struct where {
	__u32 tgid;
	__s32 kernel_stack;
	__s32 kernel_spilled;
	__s32 user_stack;
	__s32 user_spilled;
	char comm[TASK_COMM_LEN];
};

struct spent {
	__u64 samples;
	__u64 cpu_ns;
};

/* LRU: rows of processes that have ended make room */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_ROWS);
	__type(key, struct where);
	__type(value, struct spent);
} samples SEC(".maps");

/* LRU: cgroups come and go */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_CGROUPS);
	__type(key, __u64);
	__type(value, struct spent);
} cgroups SEC(".maps");

BPFLEET_FAILED_INSERTS(samples);
BPFLEET_FAILED_INSERTS(cgroups);
BPFLEET_NEW_KEYS(samples);
BPFLEET_NEW_KEYS(cgroups);

static const struct spent none;

static __always_inline void charge(struct spent *spent)
{
	if (!spent)
		return;
	__sync_fetch_and_add(&spent->samples, 1);
	__sync_fetch_and_add(&spent->cpu_ns, sample_ns);
}

SEC("perf_event")
int on_sample(void *ctx)
{
	struct where key = {.tgid = bpf_get_current_pid_tgid() >> 32};
	__u64 cgroup;
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
	charge(bpfleet_get_or_make_lru(samples, &key, &none));

	cgroup = bpf_get_current_cgroup_id();
	charge(bpfleet_get_or_make_lru(cgroups, &cgroup, &none));
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-3-Clause)
 *
 * oom: processes that the kernel chose to kill for want of memory, by command and cgroup.
 *
 * The tracepoint gives the victim itself since 6.9 (in stable kernels since 6.1.130 or so), and only its pid before. A victim is
 * seldom the process that runs at that moment, so there it is counted when it ends.
 */
#include <bpfleet/bpfleet.h>

#define MAX_VICTIMS 1024

struct victim {
	char comm[TASK_COMM_LEN];
	__u64 cgroup_id;
};

struct kills {
	__u64 count;
	__u64 last_ns;
	__u32 last_pid;
	__u32 pad;
};

/* LRU: cgroups come and go */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_VICTIMS);
	__type(key, struct victim);
	__type(value, struct kills);
} kills SEC(".maps");

BPFLEET_FAILED_INSERTS(kills);
BPFLEET_NEW_KEYS(kills);

/* Victims, by pid, that have not ended yet; and how many, so that all other ends cost next to nothing */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_VICTIMS);
	__type(key, __u32);
	__type(value, __u64);
} marked SEC(".maps");

static __u64 waiting;

static const struct kills none;

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct kernfs_node {
	__u64 id;
};

struct cgroup {
	struct kernfs_node *kn;
};

struct css_set {
	struct cgroup *dfl_cgrp; /* in the hierarchy of cgroup v2 */
};

#pragma clang attribute pop

static __always_inline void count(struct task_struct *victim, __u64 when)
{
	struct victim key = {.cgroup_id = BPF_CORE_READ(victim, cgroups, dfl_cgrp, kn, id)};
	struct kills *found;

	BPF_CORE_READ_STR_INTO(&key.comm, victim, group_leader, comm);
	found = bpfleet_get_or_make_lru(kills, &key, &none);
	if (!found)
		return;
	__sync_fetch_and_add(&found->count, 1);
	found->last_ns = when;
	found->last_pid = BPF_CORE_READ(victim, tgid);
}

SEC("tp_btf/mark_victim")
int BPF_PROG(on_victim, struct task_struct *victim)
{
	count(victim, bpf_ktime_get_boot_ns());
	return 0;
}

/* Up to 6.8 there is nothing behind the pid. */
struct mark_victim {
	__u64 common;
	int pid;
};

SEC("tracepoint/oom/mark_victim")
int on_victim_pid(struct mark_victim *ctx)
{
	__u64 now = bpf_ktime_get_boot_ns();
	__u32 pid = ctx->pid;

	if (bpf_map_update_elem(&marked, &pid, &now, BPF_ANY))
		__sync_fetch_and_add(&kills_failed_inserts, 1);
	else
		__sync_fetch_and_add(&waiting, 1);
	return 0;
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(on_victim_end, struct task_struct *task)
{
	__u32 pid = task->pid;
	__u64 *when;

	if (!waiting)
		return 0;
	when = bpf_map_lookup_elem(&marked, &pid);
	if (!when)
		return 0;
	count(task, *when);
	bpf_map_delete_elem(&marked, &pid);
	__sync_fetch_and_sub(&waiting, 1);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";

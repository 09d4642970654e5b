/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-3-Clause)
 *
 * exit: ends of processes, by command, exit status and signal, with how long they lived; and by cgroup.
 */
#include <bpfleet/bpfleet.h>

#define MAX_ENDINGS 4096
#define MAX_CGROUPS 4096
#define SLOTS 40 /* 2^40 us: 12.7 days */
#define PF_KTHREAD 0x00200000
#define SIGNAL_GROUP_EXIT 4

struct ending {
	char comm[TASK_COMM_LEN];
	__u32 code;
	__u32 signal;
};

struct endings {
	__u64 count;
	__u64 dumped;
	__u64 lifetime_ns;
	__u64 slots[SLOTS];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_ENDINGS);
	__type(key, struct ending);
	__type(value, struct endings);
} exits SEC(".maps");

struct in_cgroup {
	__u64 count;
	__u64 failed;
	__u64 killed;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_CGROUPS);
	__type(key, __u64);
	__type(value, struct in_cgroup);
} cgroups SEC(".maps");

BPFLEET_FAILED_INSERTS(exits);
BPFLEET_FAILED_INSERTS(cgroups);
BPFLEET_NEW_KEYS(cgroups);

static const struct endings none;
static const struct in_cgroup none_in_cgroup;

/* A process, whatever becomes of its pid and of the memory of its task_struct */
struct process {
	__u64 start;
	__u64 tgid;
};

/* Processes whose end has been counted; only where the kernel does not say which thread was the last. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct process);
	__type(value, __u8);
} counted SEC(".maps");

/* The tracepoint's record is another one since it tells `group_dead` (6.16) */
struct trace_event_raw_sched_process_exit {
	bool group_dead;
} __attribute__((preserve_access_index));

/*
 * Whether the last thread of its process ends here. `live` alone does not say so: two threads that end at once may both find 0.
 * An execve by another than the first thread ends the first one, and the process lives on.
 */
static __always_inline bool is_last(__u64 *ctx, struct task_struct *task, struct task_struct *first)
{
	struct process process = {};
	__u8 seen = 1;

	if (bpf_core_field_exists(struct trace_event_raw_sched_process_exit, group_dead))
		return (bool)ctx[1];
	if (task->signal->live.counter)
		return false;
	process.start = first->start_boottime;
	process.tgid = task->tgid;
	return !bpf_map_update_elem(&counted, &process, &seen, BPF_NOEXIST);
}

SEC("tp_btf/sched_process_exit")
int on_exit(__u64 *ctx)
{
	struct task_struct *task = (struct task_struct *)ctx[0], *first = task->group_leader;
	__u64 cgroup, lifetime, now = bpf_ktime_get_boot_ns();
	struct in_cgroup *in_cgroup;
	struct endings *endings;
	struct ending key;
	__u32 status;

	if (task->flags & PF_KTHREAD || !is_last(ctx, task, first))
		return 0;
	/* As wait(2) tells it. The last thread leaves its own status here, unless the process was ended as a whole (since 5.19). */
	status = task->signal->flags & SIGNAL_GROUP_EXIT ? task->signal->group_exit_code : first->exit_code;
	lifetime = now - first->start_boottime;

	__builtin_memcpy(key.comm, first->comm, TASK_COMM_LEN);
	key.code = status >> 8 & 0xff;
	key.signal = status & 0x7f;
	endings = bpfleet_get_or_make(exits, &key, &none);
	if (endings) {
		__sync_fetch_and_add(&endings->count, 1);
		__sync_fetch_and_add(&endings->lifetime_ns, lifetime);
		__sync_fetch_and_add(&endings->slots[bpfleet_log2_slot(lifetime / 1000, SLOTS)], 1);
		if (status & 0x80)
			__sync_fetch_and_add(&endings->dumped, 1);
	}

	cgroup = bpf_get_current_cgroup_id();
	in_cgroup = bpfleet_get_or_make_lru(cgroups, &cgroup, &none_in_cgroup);
	if (in_cgroup) {
		__sync_fetch_and_add(&in_cgroup->count, 1);
		if (key.signal)
			__sync_fetch_and_add(&in_cgroup->killed, 1);
		else if (key.code)
			__sync_fetch_and_add(&in_cgroup->failed, 1);
	}
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";

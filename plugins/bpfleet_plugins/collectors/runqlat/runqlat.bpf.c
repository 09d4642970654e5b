/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-3-Clause)
 *
 * runqlat: how long threads wait for a CPU, by command; and by cgroup.
 *
 * The scheduler itself adds up for each thread how long it was runnable and not running, and how often it then ran (sched_info:
 * what /proc/PID/schedstat shows). What was added since a thread last left a CPU is the wait before the run that ends now. So one
 * look per switch is enough, wakeups need no program, and waits that moved from one CPU's queue to another's are whole.
 */
#include <bpfleet/bpfleet.h>

#define MAX_COMMANDS 4096
#define MAX_CGROUPS 4096
#define MAX_THREADS 65536
#define SLOTS 32
#define TASK_DEAD 0x80 /* in __state: the last switch of a thread's life */

const volatile __u8 by_cgroup = 0;

struct command {
	char comm[TASK_COMM_LEN];
};

struct waits {
	__u64 count;
	__u64 wait_ns;
	__u64 slots[SLOTS];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_COMMANDS);
	__type(key, struct command);
	__type(value, struct waits);
} commands SEC(".maps");

/* LRU: cgroups come and go */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_CGROUPS);
	__type(key, __u64);
	__type(value, struct waits);
} cgroups SEC(".maps");

BPFLEET_FAILED_INSERTS(commands);
BPFLEET_FAILED_INSERTS(cgroups);
BPFLEET_NEW_KEYS(cgroups);

/* What had been added up for a thread when it last left a CPU */
struct seen {
	__u64 wait_ns;
	__u64 runs;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_THREADS);
	__type(key, __u32);
	__type(value, struct seen);
} threads SEC(".maps");

static const struct waits none;

static __always_inline void add(struct waits *waits, __u64 ns, __u64 runs)
{
	if (!waits)
		return;
	__sync_fetch_and_add(&waits->count, runs);
	__sync_fetch_and_add(&waits->wait_ns, ns);
	__sync_fetch_and_add(&waits->slots[bpfleet_log2_slot(ns / runs / 1000, SLOTS)], runs);
}

SEC("tp_btf/sched_switch")
int BPF_PROG(on_switch, bool preempt, struct task_struct *prev, struct task_struct *next)
{
	struct seen now = {.wait_ns = prev->sched_info.run_delay, .runs = prev->sched_info.pcount};
	__u32 pid = prev->pid;
	struct command key;
	struct seen *seen;
	__u64 ns, runs, cgroup;

	if (!pid) /* the idle task */
		return 0;
	seen = bpf_map_lookup_elem(&threads, &pid);
	if (seen && now.runs >= seen->runs && now.wait_ns >= seen->wait_ns) {
		ns = now.wait_ns - seen->wait_ns;
		runs = now.runs - seen->runs;
		*seen = now;
	} else {
		/* Nothing is known of this thread: only a first run is what it has waited for. */
		ns = now.wait_ns;
		runs = now.runs == 1;
		if (bpf_map_update_elem(&threads, &pid, &now, BPF_ANY))
			__sync_fetch_and_add(&commands_failed_inserts, 1);
	}
	if (prev->__state & TASK_DEAD)
		bpf_map_delete_elem(&threads, &pid);
	/* Not every switch is told (see cputime): then it is the mean of several runs. */
	if (!runs)
		return 0;

	__builtin_memcpy(key.comm, prev->group_leader->comm, TASK_COMM_LEN);
	add(bpfleet_get_or_make(commands, &key, &none), ns, runs);
	if (by_cgroup) {
		cgroup = bpf_get_current_cgroup_id();
		add(bpfleet_get_or_make_lru(cgroups, &cgroup, &none), ns, runs);
	}
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";

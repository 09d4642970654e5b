/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-3-Clause)
 *
 * cputime: CPU time of each process, by what the scheduler switches in and out.
 *
 * A process that runs without a switch (alone on its CPU) would show no time until it is switched out; so `settle` adds
 * the time of whatever runs right now, before each snapshot.
 */
#include <bpfleet/bpfleet.h>

#define MAX_PROCESSES 16384
#define MAX_COMMANDS 4096
#define MAX_CPUS 1024
#define MAX_ZONES 64
#define TASK_DEAD 0x80 /* in __state: the last switch of a thread's life */

struct process {
	__u64 cpu_ns;
	char comm[TASK_COMM_LEN];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_PROCESSES);
	__type(key, __u32);
	__type(value, struct process);
} processes SEC(".maps");

struct command {
	char comm[TASK_COMM_LEN];
};

struct finished {
	__u64 cpu_ns;
	__u64 count;
};

/* Where the time of a process goes when it ends, so that totals stay right and dead processes go away. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_COMMANDS);
	__type(key, struct command);
	__type(value, struct finished);
} exited SEC(".maps");

/* Filled by the agent, from files: energy that parts of the machine have used */
struct zone {
	char zone[32];
};

struct energy {
	__u64 energy_uj;
	char name[32];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_ZONES);
	__type(key, struct zone);
	__type(value, struct energy);
} energy SEC(".maps");

/*
 * What runs on each CPU, as the last switch said; a cache line each. `counted` is the task's own run time (as the scheduler
 * keeps it: a hypervisor's stolen time is not in it) up to which it has been counted, plus 1; 0 while this changes: see settle.
 */
struct running {
	__u64 counted;
	__u64 since; /* the switch, by the clock */
	__u64 task; /* address of its task_struct: why this map is not one that the worker gets */
	__u32 pid;
	__u32 tgid;
	char comm[TASK_COMM_LEN];
} __attribute__((aligned(64)));

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_CPUS);
	__type(key, __u32);
	__type(value, struct running);
} running SEC(".maps");

BPFLEET_FAILED_INSERTS(processes);
BPFLEET_FAILED_INSERTS(exited);

static const struct process new_process;
static const struct finished none_finished;

static __always_inline void add(__u32 tgid, const char *comm, __u64 ns)
{
	struct process *process;

	if (!tgid) /* the idle task */
		return;
	process = bpfleet_get_or_make(processes, &tgid, &new_process);
	if (!process)
		return;
	__sync_fetch_and_add(&process->cpu_ns, ns);
	__builtin_memcpy(process->comm, comm, TASK_COMM_LEN);
}

/* The last thread of a process has gone: keep its time under its name. */
static __always_inline void finish(__u32 tgid, const char *comm)
{
	struct process *process = bpf_map_lookup_elem(&processes, &tgid);
	struct finished *finished;
	struct command key;

	if (!process)
		return;
	__builtin_memcpy(key.comm, comm, TASK_COMM_LEN);
	finished = bpfleet_get_or_make(exited, &key, &none_finished);
	if (finished)
		__sync_fetch_and_add(&finished->cpu_ns, process->cpu_ns);
	bpf_map_delete_elem(&processes, &tgid);
}

/*
 * Each process's first thread ends exactly once, before or after the others. (Where another thread calls execve it takes
 * the first one's place, and the process is counted at that moment too.)
 */
SEC("tp_btf/sched_process_exit")
int BPF_PROG(on_exit, struct task_struct *task)
{
	struct finished *finished;
	struct command key;

	if (task->pid != task->tgid)
		return 0;
	__builtin_memcpy(key.comm, task->comm, TASK_COMM_LEN);
	finished = bpfleet_get_or_make(exited, &key, &none_finished);
	if (finished)
		__sync_fetch_and_add(&finished->count, 1);
	return 0;
}

SEC("tp_btf/sched_switch")
int BPF_PROG(on_switch, bool preempt, struct task_struct *prev, struct task_struct *next)
{
	__u64 now = bpf_ktime_get_ns(), counted, runtime = prev->se.sum_exec_runtime + 1;
	__u32 cpu = bpf_get_smp_processor_id();
	struct running *here = bpf_map_lookup_elem(&running, &cpu);

	if (!here)
		return 0;

	/* Taken with an exchange: settle, on another CPU, may have counted up to a moment ago. */
	counted = __sync_lock_test_and_set(&here->counted, 0);
	if (counted && here->pid == prev->pid && runtime > counted)
		add(prev->tgid, prev->group_leader->comm, runtime - counted);
	else if (counted && here->pid != prev->pid && here->since < now)
		/* The switch to `prev` was not told (see still_there): the clock is all there is. */
		add(prev->tgid, prev->group_leader->comm, now - here->since);
	if (prev->__state & TASK_DEAD && !prev->signal->live.counter)
		finish(prev->tgid, prev->group_leader->comm);

	here->since = now;
	here->task = (__u64)next;
	here->pid = next->pid;
	here->tgid = next->tgid;
	__builtin_memcpy(here->comm, next->group_leader->comm, TASK_COMM_LEN);
	__sync_lock_test_and_set(&here->counted, next->se.sum_exec_runtime + 1);
	return 0;
}

/*
 * Whether the task is still running on `cpu`. Not every switch is told: on some virtual machines a thread of the
 * hypervisor's agent leaves its CPU without the event. The task may have been freed: reads of it can't fault, and may be wrong
 * only by what another task with the same pid would say.
 */
static __always_inline bool still_there(struct task_struct *task, __u32 pid, __u32 cpu)
{
	if (BPF_CORE_READ(task, pid) != pid || !BPF_CORE_READ(task, on_cpu))
		return false;
	/* Before 5.16 x86 kept the CPU elsewhere; then a task that has moved on is told by its next switch. */
	if (bpf_core_field_exists(task->thread_info.cpu))
		return BPF_CORE_READ(task, thread_info.cpu) == cpu;
	return true;
}

/*
 * Count what one CPU is running up to now (the scheduler brings the run time up to date at each tick). Between reading `counted` and
 * exchanging it, it either stayed as it was (then the rest is what has been running) or the exchange fails and on_switch has counted.
 */
static long settle_cpu(void *map, __u32 *cpu, struct running *here, void *ctx)
{
	__u64 counted = *(volatile __u64 *)&here->counted;
	__u32 tgid = *(volatile __u32 *)&here->tgid;
	struct task_struct *task = (struct task_struct *)here->task;
	char comm[TASK_COMM_LEN];
	__u64 runtime;

	if (!counted || !tgid)
		return 0;
	__builtin_memcpy(comm, here->comm, TASK_COMM_LEN);
	runtime = BPF_CORE_READ(task, se.sum_exec_runtime) + 1;
	if (runtime <= counted || !still_there(task, here->pid, *cpu))
		return 0;
	if (__sync_val_compare_and_swap(&here->counted, counted, runtime) == counted)
		add(tgid, comm, runtime - counted);
	return 0;
}

SEC("syscall")
int settle(void *ctx)
{
	bpf_for_each_map_elem(&running, settle_cpu, NULL, 0);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-3-Clause)
 *
 * The kernel types that collectors read, with no more members than are read. Offsets here mean nothing:
 * preserve_access_index makes libbpf put in those of the running kernel (CO-RE).
 */
#ifndef BPFLEET_KERNEL_TYPES_H
#define BPFLEET_KERNEL_TYPES_H

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

typedef int pid_t;

struct atomic {
	int counter;
};

struct signal_struct {
	struct atomic live; /* threads that have not exited; `atomic_t` in the kernel */
	unsigned int flags;
	int group_exit_code;
};

struct thread_info {
	unsigned int cpu; /* x86: since 5.16 */
};

struct sched_entity {
	__u64 sum_exec_runtime; /* ns on CPU, of the thread */
};

/* With CONFIG_SCHED_INFO: what /proc/PID/schedstat shows */
struct sched_info {
	unsigned long pcount; /* times that the thread got a CPU */
	unsigned long long run_delay; /* ns that it waited for one */
};

struct css_set;

struct task_struct {
	struct sched_entity se;
	struct sched_info sched_info;
	struct thread_info thread_info;
	int on_cpu;
	unsigned int __state; /* `state` before 5.14 */
	unsigned int flags;
	int exit_code;
	pid_t pid;
	pid_t tgid;
	__u64 start_boottime; /* ns; of a process's first thread, or of the one that took its place by execve */
	char comm[16];
	struct task_struct *group_leader;
	struct signal_struct *signal;
	struct css_set *cgroups;
};

/* Programs of tracepoints in the syscalls group get this (`sys_exit_*`). */
struct trace_event_raw_sys_exit {
	long id;
	long ret;
};

#pragma clang attribute pop

#endif

/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-3-Clause)
 *
 * execve: programs started, by the name that the process has afterwards, and attempts that failed, by errno.
 */
#include <bpfleet/bpfleet.h>

#define MAX_COMMANDS 10240
#define MAX_ERRNO 4096 /* the kernel returns no error beyond MAX_ERRNO, 4095 */

struct command {
	char comm[TASK_COMM_LEN];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_COMMANDS);
	__type(key, struct command);
	__type(value, __u64);
} counts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256); /* execve(2) knows two dozen errors */
	__type(key, __u32);
	__type(value, __u64);
} failures SEC(".maps");

BPFLEET_FAILED_INSERTS(counts);
BPFLEET_FAILED_INSERTS(failures);

static const __u64 zero;

/* Runs in the process that has just become another program; it has its new name already. */
SEC("tp_btf/sched_process_exec")
int BPF_PROG(count_exec, struct task_struct *task)
{
	struct command key = {};
	__u64 *count;

	bpf_get_current_comm(key.comm, sizeof(key.comm));
	count = bpfleet_get_or_make(counts, &key, &zero);
	if (count)
		__sync_fetch_and_add(count, 1);
	return 0;
}

static __always_inline int count_failure(long result)
{
	__u32 error = -result;
	__u64 *count;

	if (result >= 0 || error >= MAX_ERRNO)
		return 0;
	count = bpfleet_get_or_make(failures, &error, &zero);
	if (count)
		__sync_fetch_and_add(count, 1);
	return 0;
}

SEC("tracepoint/syscalls/sys_exit_execve")
int execve_failed(struct trace_event_raw_sys_exit *ctx)
{
	return count_failure(ctx->ret);
}

SEC("tracepoint/syscalls/sys_exit_execveat")
int execveat_failed(struct trace_event_raw_sys_exit *ctx)
{
	return count_failure(ctx->ret);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";

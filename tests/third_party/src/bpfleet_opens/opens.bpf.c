/* SPDX-License-Identifier: GPL-2.0-only OR BSD-3-Clause */
#include <bpfleet/bpfleet.h>

const volatile __u32 only_pid = 0;

struct opens {
	__u64 count;
	__u64 failed;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 4096);
	__type(key, char[TASK_COMM_LEN]);
	__type(value, struct opens);
} opens SEC(".maps");

BPFLEET_FAILED_INSERTS(opens);

static const struct opens none;

SEC("tracepoint/syscalls/sys_exit_openat")
int on_open(struct trace_event_raw_sys_exit *ctx)
{
	char comm[TASK_COMM_LEN] = {};
	struct opens *mine;

	if (only_pid && bpf_get_current_pid_tgid() >> 32 != only_pid)
		return 0;
	bpf_get_current_comm(comm, sizeof(comm));
	mine = bpfleet_get_or_make(opens, comm, &none);
	if (!mine)
		return 0;
	mine->count++;
	if (ctx->ret < 0)
		mine->failed++;
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-3-Clause)
 *
 * The agent's own iterator over a collector's task storage, which has no keys to go through: a row for each thread that
 * has a value. The collector's map takes the place of `target`.
 */
#include <bpfleet/bpfleet.h>

const volatile __u32 value_size = 8;

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct seq_file;

struct bpf_iter_meta {
	struct seq_file *seq;
};

struct bpf_iter__task {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
};

#pragma clang attribute pop

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE); /* since 5.11 */
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, __u64);
} target SEC(".maps");

/* HEADS in loader/seen_layouts.py has the same layout. */
struct head {
	__u32 tgid;
	__u32 pid;
	char comm[TASK_COMM_LEN];
};

SEC("iter/task")
int storage(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;
	struct head head = {};
	void *value;

	if (!task)
		return 0;
	value = bpf_task_storage_get(&target, task, 0, 0);
	if (!value)
		return 0;
	head.tgid = task->tgid;
	head.pid = task->pid;
	bpf_probe_read_kernel_str(head.comm, sizeof(head.comm), task->comm);
	bpf_seq_write(ctx->meta->seq, &head, sizeof(head));
	bpf_seq_write(ctx->meta->seq, value, value_size);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
